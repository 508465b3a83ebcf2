// The gallery: many photos, sent in small groups, kept in this browser, filtered, reviewed and downloaded.

import { download, fill, guardEdits, newName, onDrop, onPaste, sentence, texts } from "../shared.js";
import { Cards, forgetThumbnail, forgetThumbnails, makeThumbnail } from "./cards.js";
import { chosenFiles, droppedFiles, fileKeys } from "./files.js";
import { Review } from "./review.js";
import { Sender } from "./sender.js";
import {
  announceChange, forgetEverything, loadPhoto, loadPhotos, onChangeElsewhere, onProblem, removePhoto, savePhoto, sweep,
} from "./store.js"; // prettier-ignore
import { rankWords, wordsOf } from "./words.js";

const PAGE = 48; // photos shown at a time
const WORDS = 40; // in the list

const find = (selector) => document.querySelector(selector);
const { captions: address, limit, most, confidence, common } = find("#gallery").dataset;
const [filters, status, notice, sending] = ["#filters", "#status", "#notice", "#sending"].map(find);
const levels = JSON.parse(confidence); // [[lowest percentage, words], …], the highest first
const commonWords = JSON.parse(common);
const language = document.documentElement.lang;
const collator = new Intl.Collator(language, { numeric: true });
const decimal = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat(language, { style: "percent" });
const confidenceOf = (photo) => (photo.error ? 101 : Math.round(100 * photo.choices[0].confidence)); // failed ones come last
const level = (confidence) => levels.find(([least]) => confidence >= least);

const photos = new Map(); // id → photo
const files = new Map(); // id → item that can be sent again
const words = new Set(); // chosen in the list of words
let page = 0;
let last = 0; // the latest id
let unsaved = 0; // photos that are being stored
let unstored = false; // whether something could not be stored
const busy = () => sender.busy || unsaved > 0;

// Adding and sending

const sender = new Sender(Number(limit), Number(most), keep, showProgress);

async function add(items) {
  notice.hidden = true;
  const keys = await fileKeys(items);
  const failed = new Map([...photos.values()].filter((photo) => photo.error).map((photo) => [photo.key, photo.id]));
  const known = new Set([...photos.values()].filter((photo) => !photo.error).map((photo) => photo.key));
  for (const [id, { key }] of files) if (!photos.get(id)?.error) known.add(key); // under way
  const fresh = [];
  const taken = new Set([...photos.values(), ...files.values()].map((photo) => photo.name));
  for (const [index, { file, name }] of items.entries()) {
    const key = keys[index];
    if (known.has(key)) continue;
    known.add(key);
    if (failed.has(key)) {
      taken.delete(photos.get(failed.get(key)).name);
      dropForGood(failed.get(key));
      files.delete(failed.get(key));
    }
    last = Math.max(Date.now() + Math.random(), last + 1); // other tabs add photos too
    fresh.push({ id: last, key, file, name: newName(name, taken) });
  }
  if (!fresh.length) return say(items.length ? texts.known : texts.none);
  status.textContent = fill(texts.started, { count: fresh.length });
  send(fresh);
}

function send(items) {
  const chosen = find("#upload select")?.value;
  for (const item of items) {
    item.address = chosen ? `${address}?language=${chosen}` : address;
    files.set(item.id, item);
  }
  sender.add(items);
}

/** A message that everybody must see. */
function say(message) {
  notice.textContent = message;
  notice.hidden = false;
}

async function keep({ id, key, file, name }, { error, again, language, alternatives }) {
  const choices = alternatives?.map(({ caption, confidence }) => ({ caption, confidence }));
  unsaved += 1;
  const saved = put(error ? { id, key, name, error } : { id, key, name, language, choices, text: sentence(choices[0].caption), reviewed: false, decorative: false });
  if (!again) files.delete(id);
  await Promise.all([saved, makeThumbnail(id, file)]);
  unsaved -= 1;
  announceChange(id);
  if (!busy()) showProgress();
}

function put(photo) {
  photos.set(photo.id, photo);
  schedule();
  return savePhoto(photo);
}

function drop(id) {
  photos.delete(id);
  removePhoto(id).then(() => announceChange(id));
  schedule();
}

/** As `drop`, for a photo that cannot come back. */
function dropForGood(id) {
  forgetThumbnail(id);
  drop(id);
}

function showProgress() {
  const { done, total, failed, rate } = sender;
  const cancelled = !sender.busy && done < total; // while the small copies of others may still be made
  const finished = total > 0 && (cancelled || !busy());
  sending.hidden = !total;
  sending.querySelector("progress").max = total || 1;
  sending.querySelector("progress").value = done;
  sending.querySelector("progress").hidden = finished;
  const parts = [fill(texts.count, { done, total })];
  if (sender.busy && done) {
    const seconds = Math.ceil((total - done) / rate);
    const [unit, amount] = seconds < 90 ? ["second", seconds] : ["minute", Math.round(seconds / 60)];
    const time = new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" }).format(amount);
    parts.push(fill(texts.rate, { rate: decimal.format(rate) }), fill(texts.left, { time }));
  }
  if (failed) parts.push(fill(texts.failed, { count: failed }));
  if (finished) parts.unshift(cancelled ? texts.cancelled : texts.finished);
  sending.querySelector(".count").textContent = parts.join(" · ");
  const waiting = !sender.busy && [...files.keys()].some((id) => photos.get(id)?.error);
  const focused = sending.contains(document.activeElement);
  find("#cancel").hidden = !sender.busy;
  find("#again").hidden = !waiting;
  if (focused) find(waiting ? "#again" : sender.busy ? "#cancel" : "#files").focus({ preventScroll: true });
  if (finished) {
    status.textContent = parts.join(". ");
    for (const id of files.keys()) if (!photos.has(id)) files.delete(id); // cancelled
    render();
  }
}

find("#cancel").addEventListener("click", () => sender.cancel());

find("#again").addEventListener("click", () => {
  const items = [...files.values()];
  for (const { id } of items) dropForGood(id);
  send(items);
});

for (const input of document.querySelectorAll("#upload input")) {
  input.addEventListener("change", () => {
    add(chosenFiles(input));
    input.value = "";
  });
}

onPaste((pasted) => add(pasted.map((file) => ({ file, name: file.name }))));

onDrop(find("#upload"), async (transfer) => add(await droppedFiles(transfer)));

guardEdits(() => busy() || (unstored && photos.size));

// Filtering and showing

const cards = new Cards(find("#cards"), (photo) => percent.format(confidenceOf(photo) / 100), (id) => review.open(reviewable(), id));

const ORDERS = {
  "": (a, b) => a.id - b.id,
  sure: (a, b) => confidenceOf(a) - confidenceOf(b) || a.id - b.id,
  name: (a, b) => collator.compare(a.name, b.name),
};
const STATES = {
  "": () => true,
  open: (photo) => !photo.error && !photo.reviewed,
  reviewed: (photo) => photo.reviewed,
  failed: (photo) => photo.error,
};

/** The photos that pass the filters, in the chosen order. */
function filtered() {
  const { search, show, sure: least, order } = Object.fromEntries(new FormData(filters));
  const terms = search.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = (photo) => {
    if (!STATES[show](photo) || (least && (photo.error || level(confidenceOf(photo))[0] !== Number(least)))) return false;
    const text = `${photo.text ?? ""} ${photo.name}`.toLowerCase();
    if (!terms.every((term) => text.includes(term))) return false;
    return !words.size || [...words].every((word) => wordsOf(photo).has(word));
  };
  return [...photos.values()].filter(passes).sort(ORDERS[order]);
}

const reviewable = () => filtered().filter((photo) => !photo.error).map((photo) => photo.id);

let scheduled;
function schedule() {
  // A hidden tab runs no animation frames, so the next one can wait for minutes.
  const renderOnce = () => {
    scheduled = undefined;
    render();
  };
  scheduled ??= setTimeout(() => requestAnimationFrame(renderOnce), busy() ? 200 : 0);
}

function render() {
  if (find("#review").open) return; // it covers the gallery, which is shown again when it closes
  const all = [...photos.values()];
  if (all.length && find("#collection").hidden) {
    find("#collection").hidden = false; // the browser lays out its controls now and the photos in the next frame
    return schedule();
  }
  const shown = filtered();
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  page = Math.min(page, pages - 1);
  find("#collection").hidden = !all.length;
  const reviewed = all.filter((photo) => photo.reviewed).length;
  find("#found").textContent = fill(texts.found, { count: shown.length, total: all.length, reviewed });
  find("#cards").className = filters.elements.view.value;
  cards.show(shown.slice(PAGE * page, PAGE * (page + 1)));
  find("#pager").hidden = pages === 1;
  find("#pager span").textContent = fill(texts.page, { page: page + 1, pages });
  find("#back").disabled = page === 0;
  find("#forth").disabled = page === pages - 1;
  const none = !shown.some((photo) => !photo.error);
  for (const button of document.querySelectorAll("#export button:not(#forget, #discard)")) button.disabled = none;
  find("#discard").hidden = busy() || !all.some((photo) => photo.error);
  setTimeout(renderWords); // a task of its own, so that none is long
}

function renderWords() {
  const ranked = rankWords([...photos.values()], WORDS, commonWords, words);
  const list = find("#words ol");
  const have = [...list.querySelectorAll("button")];
  for (const button of have) button.setAttribute("aria-pressed", words.has(button.value));
  if (busy() && list.matches(":hover, :focus-within")) return; // a word that is about to be chosen keeps its place
  ranked.forEach(([word, count, written], index) => {
    const button = have[index] ?? list.appendChild(document.createElement("li")).appendChild(document.createElement("button"));
    const label = `${written} ${count}`;
    if (button.textContent !== label) {
      const number = document.createElement("small");
      number.textContent = count;
      button.replaceChildren(`${written} `, number);
    }
    Object.assign(button, { type: "button", value: word });
    button.setAttribute("aria-pressed", words.has(word));
  });
  for (const button of have.slice(ranked.length)) button.parentElement.remove();
  find("#words").hidden = !ranked.length;
}

find("#words").addEventListener("click", ({ target }) => {
  const value = target.closest("button")?.value;
  if (!value) return;
  if (!words.delete(value)) words.add(value);
  refilter();
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", refilter);

function refilter() {
  page = 0;
  const chosen = new URLSearchParams([...new FormData(filters), ...[...words].map((word) => ["word", word])].filter(([, value]) => value));
  render();
  status.textContent = find("#found").textContent;
  try {
    history.replaceState(null, "", `#${chosen}`); // the part of the address that no server sees
  } catch {} // some browsers refuse after a hundred changes in half a minute
}

function turn(pages) {
  page += pages;
  render();
  const [pressed, other] = pages < 0 ? ["#back", "#forth"] : ["#forth", "#back"];
  if (find(pressed).disabled) find(other).focus();
  status.textContent = find("#pager span").textContent;
  find("#found").scrollIntoView();
}
find("#back").addEventListener("click", () => turn(-1));
find("#forth").addEventListener("click", () => turn(1));

// Review, download, delete

const review = new Review(find("#review"), {
  get: (id) => photos.get(id),
  put: (photo) => put(photo).then(() => announceChange(photo.id)),
  remove: drop,
  isLast: (id) => ![...photos.values()].some((photo) => !photo.error && photo.id !== id),
  confidence: ({ confidence }) => `${level(Math.round(100 * confidence))[1]}, ${percent.format(confidence)}`,
  closed: (id) => {
    const at = filtered().findIndex((photo) => photo.id === id);
    if (at >= 0) page = Math.floor(at / PAGE);
    render();
    if (!cards.focus(id)) focusRest();
    takeChanges();
  },
});

/** Focuses what is there when the photo that had the focus is not. */
function focusRest() {
  const start = find("#start");
  if (!photos.size) find("#files").focus();
  else if (start.disabled) find("#found").focus();
  else start.focus();
}

find("#start").addEventListener("click", () => {
  const ids = reviewable();
  review.open(ids, ids.find((id) => !photos.get(id).reviewed) ?? ids[0]);
});

find("#export").addEventListener("submit", async (event) => {
  const fields = filtered().filter((photo) => !photo.error).flatMap((photo) => [
    ["name", photo.name],
    ["text", photo.text],
    ["language", photo.language],
    ["alternatives", photo.choices.map((choice) => choice.caption).join("|")],
  ]);
  notice.hidden = true;
  const problem = await download(event, fields);
  if (problem) say(problem);
});

find("#discard").addEventListener("click", () => {
  const failed = [...photos.values()].filter((photo) => photo.error);
  for (const { id } of failed) {
    dropForGood(id);
    files.delete(id);
  }
  find("#again").hidden = true;
  refilter();
  focusRest();
});

find("#forget").addEventListener("click", () => find("#ask").showModal());
find("#ask").addEventListener("close", async ({ target }) => {
  if (target.returnValue !== "forget") return;
  target.returnValue = "";
  if (sender.busy) sender.cancel();
  sender.reset();
  photos.clear();
  files.clear();
  words.clear();
  filters.reset();
  review.forget();
  forgetThumbnails();
  await forgetEverything();
  announceChange();
  sending.hidden = true;
  refilter();
  status.textContent = texts.forgotten;
  find("#files").focus();
});

// Other tabs with the gallery

const changed = new Set(); // ids of photos; null stands for all

onChangeElsewhere((id) => {
  changed.add(id);
  takeChanges();
});

/** Reads the photos that another tab has changed. During a review, the photo shown and those removed wait for its end. */
async function takeChanges() {
  const reviewing = () => find("#review").open;
  const all = changed.has(null);
  if (unstored || (all && reviewing())) return;
  const ids = [...new Set([...(all ? photos.keys() : []), ...changed])].filter((id) => id !== null && !(reviewing() && id === review.shown));
  for (const id of [null, ...ids]) changed.delete(id);
  if (all) {
    forgetThumbnails();
    review.forget();
  }
  for (const id of ids) {
    const photo = await loadPhoto(id).catch(() => photos.get(id));
    if (photo && !(reviewing() && id === review.shown)) {
      photos.set(id, photo);
      cards.showAgain(id);
    } else if (reviewing()) changed.add(id);
    else photos.delete(id);
  }
  if (ids.length) schedule();
}

// Start

onProblem(() => {
  say(texts.unsaved);
  find("#review .problem").textContent = texts.unsaved; // an open review covers the other message
  find("#review .problem").hidden = false;
  unstored = true;
});

function restoreFilters() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name === "word") words.add(value);
    else if (filters.elements.namedItem(name)) filters.elements.namedItem(name).value = value;
  }
  for (const select of filters.querySelectorAll("select")) if (select.selectedIndex < 0) select.selectedIndex = 0;
}

addEventListener("hashchange", () => {
  words.clear();
  filters.reset();
  restoreFilters();
  page = 0;
  render();
});

find("#words").open = matchMedia("(min-width: 56rem)").matches;
restoreFilters();
for (const photo of await loadPhotos().catch(() => (say(texts.unsaved), []))) photos.set(photo.id, photo);
last = Math.max(0, ...photos.keys());
sweep();
render();
