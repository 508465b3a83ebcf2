// Downloads the photos of this tab with the texts written into them, as one ZIP file for each request that the server
// accepts.

import { captions, form, haveDownloaded, nameOf, note, status, textsOf } from "./page.js";
import { fetchFile, fill, isUnreadable, saveFile, texts } from "./shared.js";

const zip = document.querySelector("#zip");
const label = zip.textContent;
let writing = false;

/** Gives whether all ZIP files could be written. */
async function downloadPhotos() {
  const cards = [...captions.querySelectorAll(".photo:has(textarea)")];
  const groups = inGroups(cards.filter((card) => card.file));
  const missing = cards.filter((card) => !card.file).length; // from before a reload: the browser has forgotten the file
  note.textContent = missing ? fill(texts.missing, { count: missing }) : "";
  for (const [index, group] of groups.entries()) {
    zip.textContent = status.textContent = fill(texts.zipping, { number: index + 1, total: groups.length });
    const body = new FormData();
    const sent = textsOf(group);
    for (const card of group) {
      if (await isUnreadable(card.file)) {
        note.textContent = `${nameOf(card)}: ${texts.unreadable}`;
        return false;
      }
      body.append("image", card.file, nameOf(card));
      body.append("text", sent.get(card));
    }
    const { blob, problem } = await fetchFile(zip.dataset.url, body);
    if (!blob) {
      note.textContent = problem ?? texts.unzipped;
      return false;
    }
    saveFile(blob, groups.length > 1 ? `photos-${index + 1}.zip` : "photos.zip");
    haveDownloaded(sent);
  }
  return groups.length > 0;
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
  if (writing) return;
  writing = true;
  status.textContent = (await downloadPhotos()) ? texts.finished : "";
  zip.textContent = label;
  writing = false;
});
