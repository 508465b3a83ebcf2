// Downloads the photos of this tab with the texts written into them, as one ZIP file for each request that the server
// accepts.

import { active, captions, form } from "./page.js";
import { fill, problemIn, saveFile, texts } from "./shared.js";

const zip = document.querySelector("#zip");
const note = document.querySelector("#note");

async function downloadPhotos() {
  const cards = [...captions.querySelectorAll(".photo")].filter((card) => card.querySelector("textarea"));
  const groups = inGroups(cards.filter((card) => card.file));
  const missing = cards.filter((card) => !card.file).length; // from before a reload: the browser has forgotten the file
  note.textContent = missing ? fill(texts.missing, { count: missing }) : "";
  for (const [index, group] of groups.entries()) {
    zip.textContent = fill(texts.zipping, { number: index + 1, total: groups.length });
    const body = new FormData();
    for (const card of group) {
      body.append("image", card.file, card.file.name);
      body.append("text", card.querySelector("textarea").value);
    }
    const response = await fetch(zip.dataset.url, { method: "POST", body }).catch(() => null);
    if (!response?.ok) {
      note.textContent = (await problemIn(response)) ?? texts.unzipped;
      return;
    }
    saveFile(await response.blob(), groups.length > 1 ? `photos-${index + 1}.zip` : "photos.zip");
  }
}

function inGroups(cards) {
  const groups = [];
  let bytes = 0;
  for (const card of cards) {
    const size = card.file.size + 5_000; // with its text and the headers of the form
    if (!groups.length || groups.at(-1).length >= zip.dataset.photos || bytes + size > form.dataset.limit) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1).push(card);
    bytes += size;
  }
  return groups;
}

zip.hidden = false;
zip.addEventListener("click", async () => {
  const label = zip.textContent;
  zip.disabled = true;
  await downloadPhotos();
  zip.textContent = label;
  zip.disabled = active.size > 0;
});
