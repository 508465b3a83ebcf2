// The words of a caption, and the part of the photo that the model focused on for each.

import { fetchFile, fill, saveFile, texts } from "./shared.js";

/** Shows the words as buttons that show their attention; `wholeText` and `wholeSure` are for the whole caption. */
export function showAttention(card, words, wholeText, wholeSure) {
  const toolbar = card.querySelector(".words");
  const [bar, text] = card.querySelectorAll(".sure rect:last-child, .sure span");
  const canvas = card.querySelector("canvas") ?? document.createElement("canvas");
  const buttons = words.map(({ text }, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = index ? text : text.charAt(0).toUpperCase() + text.slice(1);
    return button;
  });
  toolbar.replaceChildren(...inText(buttons, card.querySelector("textarea").lang), ".");
  toolbar.hidden = false;
  card.querySelector("h2").classList.add("for-readers");
  card.querySelector(".view").append(canvas);
  card.querySelector(".legend").hidden = false;
  card.querySelector(".strip").hidden = false;
  let pinned = null;

  function show(button) {
    const word = words[buttons.indexOf(button)];
    const sure = word ? Math.round(100 * word.probability) : wholeSure;
    text.textContent = word ? fill(texts.word, { word: button.textContent, sure }) : `${wholeText} ${texts.choose}`;
    bar.setAttribute("width", sure);
    card.querySelector("figure").classList.toggle("focused", Boolean(word));
    if (word) drawShade(canvas, word.attention);
  }

  function pin(button) {
    pinned = button;
    for (const other of buttons) other.setAttribute("aria-pressed", other === pinned);
    show(pinned);
  }

  pin(null);
  buttons.forEach((button, index) => {
    button.tabIndex = index ? -1 : 0; // one stop for the Tab key, then arrow keys, as usual for a toolbar
    button.addEventListener("pointerenter", () => show(button));
    button.addEventListener("pointerleave", () => show(pinned));
    button.addEventListener("focus", () => {
      for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
      show(button);
    });
    button.addEventListener("blur", () => show(pinned));
    button.addEventListener("click", () => pin(pinned === button ? null : button));
    button.addEventListener("keydown", (event) => {
      const last = buttons.length - 1;
      const next = { ArrowLeft: Math.max(index - 1, 0), ArrowRight: Math.min(index + 1, last), Home: 0, End: last }[event.key];
      if (event.key === "Escape") pin(null);
      if (next === undefined) return;
      event.preventDefault();
      buttons[next].focus();
    });
  });
}

// The words with spaces between them. "l'" and "océan" stay together.
function inText(buttons, language) {
  const groups = [];
  for (const button of buttons) {
    if (groups.at(-1)?.at(-1).textContent.endsWith("'")) groups.at(-1).push(button);
    else groups.push([button]);
  }
  return groups.flatMap((group, index) => {
    const joined = document.createElement("span");
    joined.className = "joined";
    joined.lang = language;
    joined.append(...group);
    return index ? [" ", joined] : [joined];
  });
}

// One pixel per region, darker for less attention. The browser scales and smooths it over the photo.
function drawShade(canvas, rows) {
  const shade = new ImageData(rows[0].length, rows.length);
  rows.flat().forEach((level, region) => (shade.data[4 * region + 3] = 165 * (1 - level / 99)));
  Object.assign(canvas, { width: shade.width, height: shade.height });
  canvas.getContext("2d").putImageData(shade, 0, 0);
}

/** Saves a picture of the attention of each word. Returns a message if it cannot. */
export async function saveStrip(card) {
  const image = card.querySelector("figure img");
  const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0);
  const body = new FormData();
  body.append("image", await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg")), "photo.jpg");
  body.append("words", card.querySelectorAll(".choices li")[card.dataset.chosen].dataset.words);
  const { blob } = await fetchFile(document.querySelector("#results").dataset.attention, body);
  if (!blob) return texts.undrawn;
  saveFile(blob, `${card.querySelector(".name").textContent.replace(/\.\w+$/, "")}-attention.png`);
}
