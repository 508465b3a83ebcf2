// The photos of a page of the gallery, as cards, and their small copies.

import { texts } from "../shared.js";
import { loadThumbnail, saveThumbnail } from "./store.js";

const thumbnailer = new Worker(new URL("thumbnailer.js", import.meta.url));
const waiting = new Map(); // id → function that takes the blob
const addresses = new Map(); // id → promise of a URL, or of null
let broken = false; // there are no small copies
let generation = 0; // grows when all are forgotten

thumbnailer.onmessage = ({ data: { id, blob } }) => {
  waiting.get(id)?.(blob);
  waiting.delete(id);
};
thumbnailer.onerror = () => {
  broken = true; // it could not be loaded
  for (const take of waiting.values()) take(null);
  waiting.clear();
};

/** Makes and stores the small copy of a photo. The promise is fulfilled when it is stored. */
export function makeThumbnail(id, file) {
  const made = new Promise((resolve) => (broken ? resolve(null) : waiting.set(id, resolve)));
  addresses.set(id, made.then((blob) => blob && URL.createObjectURL(blob)));
  thumbnailer.postMessage({ id, file });
  const own = generation;
  return made.then((blob) => blob && own === generation && saveThumbnail(id, blob));
}

/** The URL of the small copy of a photo; null if the browser cannot show its file, or another tab has not stored it yet. */
function thumbnail(id) {
  if (!addresses.has(id)) addresses.set(id, loadThumbnail(id).then((blob) => (blob ? URL.createObjectURL(blob) : null)));
  return addresses.get(id);
}

export function forgetThumbnail(id) {
  addresses.get(id)?.then((url) => url && URL.revokeObjectURL(url));
  addresses.delete(id);
}

export function forgetThumbnails() {
  for (const id of [...addresses.keys()]) forgetThumbnail(id);
  generation += 1;
}

/** Shows a photo's small copy, unless `image` shows another photo by then. */
export async function showThumbnail(image, id) {
  if (image.dataset.photo !== String(id)) image.removeAttribute("src"); // not one photo beside the caption of another
  image.dataset.photo = id;
  const address = await thumbnail(id);
  if (image.dataset.photo !== String(id)) return;
  if (address) image.src = address;
  else image.removeAttribute("src");
}

export class Cards {
  #cards = new Map(); // id → element

  /** @param {(id: number) => void} open what a click on a card does */
  constructor(list, percent, open) {
    Object.assign(this, { list, percent, open, template: document.querySelector("#card").content.firstElementChild });
  }

  /** Shows these photos and no others. Cards that stay keep their focus. */
  show(photos) {
    const wanted = new Map(photos.map((photo) => [photo.id, this.#cards.get(photo.id) ?? this.#create(photo)]));
    for (const [id, card] of this.#cards) if (!wanted.has(id)) card.remove();
    this.#cards = wanted;
    let place = this.list.firstElementChild;
    for (const photo of photos) {
      const card = wanted.get(photo.id);
      this.#fill(card, photo);
      if (card === place) place = place.nextElementSibling;
      else this.list.insertBefore(card, place);
    }
  }

  /** Shows the small copy of a photo that another tab has stored by now. */
  async showAgain(id) {
    if (addresses.has(id) && !(await addresses.get(id))) addresses.delete(id);
    const image = this.#cards.get(id)?.querySelector("img");
    if (image && !image.hasAttribute("src")) showThumbnail(image, id);
  }

  /** Gives whether there is a card to focus. */
  focus(id) {
    this.#cards.get(id)?.querySelector("button").focus();
    return this.#cards.has(id);
  }

  #create(photo) {
    const card = this.template.cloneNode(true);
    card.querySelector("button").addEventListener("click", () => this.open(photo.id));
    card.querySelector("p").id = `about-${photo.id}`;
    card.querySelector("button").setAttribute("aria-describedby", `about-${photo.id}`);
    showThumbnail(card.querySelector("img"), photo.id);
    return card;
  }

  #fill(card, photo) {
    const [caption, mark, name] = card.querySelectorAll(".caption, .mark, .name");
    const text = photo.error ?? (photo.text || (photo.decorative ? texts.decorative : texts.empty));
    const state = photo.error ? "failed" : photo.reviewed ? "reviewed" : "open";
    if (card.dataset.state === state && caption.textContent === text) return;
    card.dataset.state = state;
    caption.textContent = text;
    if (photo.text) caption.lang = photo.language;
    else caption.removeAttribute("lang");
    card.querySelector("button").disabled = Boolean(photo.error);
    mark.textContent = { failed: "", reviewed: `✓ ${texts.reviewed}`, open: this.percent(photo) }[state];
    name.textContent = photo.name;
  }
}
