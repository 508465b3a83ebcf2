// The dialog that shows one photo after the other to accept or correct its caption, with the keyboard alone if wanted.

import { fill, sentence, texts } from "../shared.js";
import { offerSpeech, stopSpeech } from "../speech.js";
import { showThumbnail } from "./cards.js";
import { keepLetters, lettersAct } from "./store.js";

const KEYS = {
  a: "accept", ArrowRight: "next", ArrowLeft: "previous", e: "edit", d: "decorative", u: "undo", r: "speak", "?": "help", Delete: "remove", Backspace: "remove",
}; // prettier-ignore

export class Review {
  #order = []; // ids, in the order of the gallery when the dialog was opened
  #at = 0;
  #undo = []; // {id, before}: the photo as it was
  #editing = false; // the present edit is in #undo

  /**
   * @param {object} hooks get(id), put(photo), remove(id), isLast(id), confidence(choice), closed(id)
   */
  constructor(dialog, hooks) {
    Object.assign(this, { dialog, hooks });
    const find = (selector) => dialog.querySelector(selector);
    Object.assign(this, { letters: find("#letters"), image: find("img"), field: find("textarea"), choices: find(".choices"), message: find(".message"), status: find("[role=status]") });
    dialog.addEventListener("click", (event) => this[event.target.closest("[data-do]")?.dataset.do]?.());
    document.addEventListener("keydown", (event) => dialog.open && this.#key(event)); // a click may take the focus away
    dialog.addEventListener("close", () => {
      stopSpeech(this.#button("speak"));
      hooks.closed(this.shown);
    });
    this.field.addEventListener("input", () => this.#edit());
    this.field.addEventListener("blur", () => (this.#editing = false));
    this.letters.checked = lettersAct();
    this.letters.addEventListener("change", () => keepLetters(this.letters.checked));
    this.image.addEventListener("load", () => this.#showImage(true));
    offerSpeech(find(".speak"), () => this.field.value, () => this.field.lang);
  }

  open(ids, id) {
    this.#order = ids;
    this.#at = Math.max(0, ids.indexOf(id));
    this.dialog.showModal();
    this.#show();
    this.#button("accept").focus();
  }

  /** The id of the photo in the dialog. */
  get shown() {
    return this.#order[this.#at];
  }

  get #photo() {
    return this.hooks.get(this.shown);
  }

  #button(action) {
    return this.dialog.querySelector(`[data-do=${action}]`);
  }

  #key(event) {
    const inField = event.target === this.field;
    if (event.repeat && event.key === "Enter" && !inField) return event.preventDefault(); // it would accept photo after photo
    if (inField && (event.key === "Escape" || (event.key === "Enter" && event.ctrlKey))) {
      event.preventDefault(); // ends the edit, not the review
      this.#button("accept").focus();
      if (event.key === "Enter") this.accept();
    }
    if (inField || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key.length === 1 && !this.letters.checked) return;
    const choice = this.choices.children[event.key - 1];
    const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!choice && !action) return;
    event.preventDefault();
    if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held down acts once
    if (choice) choice.firstElementChild.click();
    else if (action === "speak") this.#button("speak").click();
    else this[action]();
  }

  #show(message = "") {
    const photo = this.#photo;
    this.message.textContent = message;
    const place = fill(texts.place, { number: this.#at + 1, count: this.#order.length });
    this.dialog.querySelector("#place").textContent = place;
    this.dialog.querySelector(".name").textContent = photo.name;
    this.#showImage(true);
    showThumbnail(this.image, photo.id).then(() => {
      if (this.image.dataset.photo === String(photo.id)) this.#showImage(this.image.hasAttribute("src"));
    });
    this.choices.replaceChildren(...photo.choices.map((choice, index) => this.#choice(photo, choice, index)));
    this.field.value = photo.text;
    this.field.lang = photo.language;
    this.#showState(photo);
    this.status.textContent = [message, `${place}, ${photo.name}: ${photo.text || texts[photo.decorative ? "decorative" : "empty"]}`].filter(Boolean).join(" ");
  }

  #showImage(visible) {
    this.image.hidden = !visible;
    this.dialog.querySelector(".blank").hidden = visible;
  }

  #choice(photo, choice, index) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const text = document.createElement("span");
    const key = document.createElement("kbd");
    const confidence = document.createElement("small");
    button.type = "button";
    text.textContent = sentence(choice.caption);
    text.lang = photo.language;
    key.textContent = index + 1;
    confidence.textContent = this.hooks.confidence(choice);
    button.append(key, " ", text, " ", confidence);
    button.addEventListener("click", () => {
      const focused = document.activeElement === button;
      this.#change({ text: text.textContent, decorative: false });
      if (focused) this.choices.children[index].firstElementChild.focus();
    });
    item.append(button);
    return item;
  }

  #showState(photo) {
    for (const { firstElementChild: button } of this.choices.children) {
      button.setAttribute("aria-pressed", button.querySelector("span").textContent === photo.text);
    }
    this.#button("decorative").setAttribute("aria-pressed", photo.decorative);
    this.dialog.querySelector(".sure").textContent = photo.reviewed ? `✓ ${texts.reviewed}` : "";
  }

  /** Changes the photo so that it can be undone. */
  #change(values) {
    const photo = this.#photo;
    this.#undo.push({ id: photo.id, before: { ...photo } });
    this.hooks.put(Object.assign(photo, values));
    this.#show();
  }

  #edit() {
    const photo = this.#photo;
    if (!this.#editing) this.#undo.push({ id: photo.id, before: { ...photo } });
    this.#editing = true;
    const text = this.field.value;
    this.hooks.put(Object.assign(photo, { text, decorative: !text.trim(), before: undefined }));
    this.#showState(photo);
  }

  #go(steps) {
    const target = this.#at + steps;
    stopSpeech(this.#button("speak"));
    this.#editing = false;
    this.#at = Math.min(Math.max(target, 0), this.#order.length - 1);
    this.#show(target >= this.#order.length ? texts.end : "");
  }

  accept() {
    const photo = this.#photo;
    const text = this.field.value.trim();
    this.#undo.push({ id: photo.id, before: { ...photo } });
    this.hooks.put(Object.assign(photo, { text, decorative: !text, reviewed: true }));
    this.#go(1);
  }

  next() {
    this.#go(1);
  }

  previous() {
    this.#go(-1);
  }

  edit() {
    this.field.focus();
    this.field.select();
  }

  decorative() {
    const { decorative, choices, text, before } = this.#photo;
    const back = { decorative: false, text: before || sentence(choices[0].caption) };
    this.#change(decorative ? back : { decorative: true, text: "", before: text });
  }

  remove() {
    const photo = this.#photo;
    if (this.hooks.isLast(photo.id) && !confirm(texts.removal)) return; // without a photo, there is no review and no undo
    this.#undo.push({ id: photo.id, before: { ...photo }, at: this.#at });
    this.hooks.remove(photo.id);
    this.#order.splice(this.#at, 1);
    if (this.#order.length) this.#go(0);
    else this.dialog.close();
  }

  undo() {
    const last = this.#undo.pop();
    if (!last) return void (this.message.textContent = this.status.textContent = texts.nothing);
    if (!this.hooks.get(last.id)) this.#order.splice(last.at ?? 0, 0, last.id);
    this.hooks.put(last.before);
    if (!this.#order.includes(last.id)) this.#order.push(last.id);
    this.#at = this.#order.indexOf(last.id);
    this.#show(texts.undone);
  }

  forget() {
    this.#undo.length = 0;
  }

  help() {
    const keys = this.dialog.querySelector("#keys");
    keys.hidden = !keys.hidden;
    this.#button("help").setAttribute("aria-expanded", !keys.hidden);
  }

  close() {
    this.dialog.close();
  }
}
