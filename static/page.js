// A convenience: without it, the form sends the photos and the answer is the same page with the captions.
// With it, photos are described one after the other, as soon as they are chosen, dropped or pasted.

const form = document.querySelector("form");
const input = document.querySelector("#photos");
const captions = document.querySelector("#captions");
const status = document.querySelector("#status");
const waiting = []; // {file, card} in the order they came
let busy = false;

function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function add(files) {
  const cards = [...files].map((file) => {
    const card = fromTemplate("waiting");
    card.querySelector("img").src = URL.createObjectURL(file);
    card.querySelector(".name").textContent = file.name;
    waiting.push({ file, card });
    return card;
  });
  if (!cards.length) return;
  document.querySelector("main > .problem")?.remove();
  captions.append(...cards);
  cards[0].scrollIntoView({ block: "nearest" });
  describeAll();
}

async function describeAll() {
  if (busy) return;
  busy = true;
  while (waiting.length) {
    const { file, card } = waiting.shift();
    const left = waiting.length;
    status.textContent = `Looking at ${file.name}${left ? `, ${left} more to come` : ""}.`;
    const answer = await describe(file);
    URL.revokeObjectURL(card.querySelector("img").src);
    card.replaceWith(answer);
    enhance(answer);
    status.textContent = `${file.name}: ${answer.querySelector("h2").textContent}`;
  }
  busy = false;
}

// The card of one photo, cut out of the page that the form would have led to.
async function describe(file) {
  let problem = "";
  if (file.size > form.dataset.limit) {
    problem = `This file has more than ${Math.floor(form.dataset.limit / 2 ** 20)} MB. Save it smaller and try again.`;
  } else {
    try {
      const body = new FormData();
      body.append("image", file, file.name);
      const response = await fetch(form.action, { method: "POST", body });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const card = page.querySelector("#captions .photo");
      if (card) return document.adoptNode(card);
      problem = page.querySelector("main > .problem")?.textContent;
    } catch {
      // the server did not answer; the template says so
    }
  }
  const card = fromTemplate("failed");
  if (problem) card.querySelector("h2").textContent = problem;
  card.querySelector(".name").textContent = file.name;
  return card;
}

// Lets a described photo show where the model looked, and its caption be copied.
function enhance(card) {
  const caption = card.querySelector("h2");
  const words = card.querySelector(".words");
  if (words) {
    caption.classList.add("for-readers");
    words.hidden = false;
    showAttention(card, words);
  }
  const copy = card.querySelector(".copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      copy.textContent = status.textContent = (await copyText(caption)) ? "Copied" : "Could not copy";
      setTimeout(() => (copy.textContent = "Copy caption"), 2000);
    });
  }
}

function showAttention(card, words) {
  const buttons = [...words.querySelectorAll("button")];
  const [bar, text] = card.querySelectorAll(".sure rect:last-child, .sure span");
  const canvas = document.createElement("canvas");
  card.querySelector("figure").append(canvas);
  const whole = { text: `${text.textContent} Choose a word to see where the model looked.`, sure: bar.getAttribute("width") };
  let pinned = null;

  function show(button) {
    const sure = button ? button.dataset.sure : whole.sure;
    text.textContent = button ? `“${button.textContent}”, ${sure} % sure. It looked where the photo is bright.` : whole.text;
    bar.setAttribute("width", sure);
    canvas.classList.toggle("on", Boolean(button));
    if (button) drawShade(canvas, button.dataset.attention.split(" ").map(Number));
  }

  function pin(button) {
    pinned = button;
    for (const other of buttons) other.setAttribute("aria-pressed", other === pinned);
    show(pinned);
  }

  pin(null);
  buttons.forEach((button, index) => {
    button.tabIndex = index ? -1 : 0; // one stop for the Tab key, then the arrow keys, as in any toolbar
    button.addEventListener("pointerenter", () => show(button));
    button.addEventListener("pointerleave", () => show(pinned));
    button.addEventListener("focus", () => show(button));
    button.addEventListener("blur", () => show(pinned));
    button.addEventListener("click", () => pin(pinned === button ? null : button));
    button.addEventListener("keydown", (event) => {
      const last = buttons.length - 1;
      const next = { ArrowLeft: Math.max(index - 1, 0), ArrowRight: Math.min(index + 1, last), Home: 0, End: last }[event.key];
      if (event.key === "Escape") pin(null);
      if (next === undefined) return;
      event.preventDefault();
      button.tabIndex = -1;
      buttons[next].tabIndex = 0;
      buttons[next].focus();
    });
  });
}

// One pixel a region, the darker the less it mattered; the browser smooths it over the photo.
function drawShade(canvas, levels) {
  const side = Math.sqrt(levels.length);
  canvas.width = canvas.height = side;
  const shade = new ImageData(side, side);
  levels.forEach((level, region) => (shade.data[4 * region + 3] = 165 * (1 - level / 99)));
  canvas.getContext("2d").putImageData(shade, 0, 0);
}

async function copyText(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent).then(() => true, () => false);
  getSelection().selectAllChildren(element); // browsers offer no clipboard to a page over plain HTTP
  return document.execCommand("copy");
}

document.documentElement.classList.add("js");
captions.querySelectorAll(".photo").forEach(enhance);

input.addEventListener("change", () => {
  add(input.files);
  input.value = "";
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    form.classList.toggle("target", kind === "dragover" || kind === "dragenter");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
