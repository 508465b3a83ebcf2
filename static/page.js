// The page also works without this script: the form sends the photos, and the answer is the same page with the captions.
// With it, each photo is sent on its own as soon as it is chosen, dropped, pasted or taken. The card in the answer
// replaces the preview. The cards are kept in sessionStorage, so that a reload loses nothing.

import { saveStrip, showAttention } from "./attention.js";
import { download, fill, guardEdits, isUnreadable, newName, onDrop, onPaste, texts, upload } from "./shared.js";
import { offerSpeech, stopSpeech } from "./speech.js";

const PARALLEL = 4; // photos sent at a time: the server captions them in one batch

const form = document.querySelector("#upload");
const options = document.querySelector("#options");
const language = document.querySelector("select[name=language]");
const results = document.querySelector("#results");
const captions = document.querySelector("#captions");
const tools = results.querySelectorAll(".tools button");
const status = document.querySelector("#status");
const waitingText = document.querySelector("#waiting").content.querySelector(".caption").textContent;
const storage = openStorage();
const note = document.querySelector("#note");
const waiting = []; // {file, about, name, key, action, card, abort} in the order they came
const active = new Set();
const kept = new Map(); // card → {key, html, about}: its key in sessionStorage, the HTML from the server, its `identity`
const unsaved = new Set(); // cards that are not in sessionStorage: they did not fit, or they came without script
const edited = new Set(); // cards with a text of the visitor's own that was not downloaded
let added = Number(savedKeys().at(-1)?.slice(6) ?? 0); // photos in this tab so far, including those from before a reload
let done = 0;
let total = 0;

function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

// Sending

function add(files) {
  const fresh = [...files].filter((file) => !takeBack(file));
  const taken = new Set([...captions.querySelectorAll(".photo")].map(nameOf));
  const jobs = fresh.map((file) => ({
    file,
    about: identity(file),
    name: newName(file.name, taken),
    key: `photo ${(added += 1)}`,
    action: form.action,
  }));
  if (fresh.length < files.length) note.textContent = fill(texts.back, { count: files.length - fresh.length });
  if (!jobs.length) return;
  document.querySelector("main > .problem")?.remove();
  captions.append(...jobs.map(waitingCard));
  waiting.push(...jobs);
  total += jobs.length;
  status.textContent = fill(texts.added, { count: jobs.length });
  jobs[0].card.scrollIntoView({ block: "nearest" });
  next();
}

/** What a card is recognised by when its photo is chosen again: the file, and the options of the caption. */
const identity = ({ name, size }) => `${size} ${name} ${new URLSearchParams(new FormData(options))}`;

/** Gives a file back to its card from before a reload. Gives whether there is such a card. */
function takeBack(file) {
  const [card] = [...kept].find(([card, { about }]) => !card.file && about === identity(file)) ?? [];
  if (card) card.file = file;
  return Boolean(card);
}

function waitingCard(job) {
  const card = (job.card = fromTemplate("waiting"));
  card.querySelector("img").src = URL.createObjectURL(job.file);
  card.querySelector("progress").setAttribute("aria-label", fill(texts.progress, { name: job.name }));
  nameCard(card, job.name);
  card.querySelector(".remove").addEventListener("click", () => cancel(job));
  return card;
}

function nameCard(card, name) {
  card.setAttribute("aria-label", name);
  card.querySelector(".name").textContent = name;
}

const nameOf = (card) => card.querySelector(".name").textContent;

function next() {
  while (active.size < PARALLEL && waiting.length) send(waiting.shift());
  if (!active.size) done = total = 0;
  for (const button of tools) button.disabled = active.size > 0;
}

async function send(job) {
  const { file, card } = job;
  const [text, bar] = card.querySelectorAll(".caption, progress");
  active.add(job);
  if (file.size > form.dataset.limit) return finish(job, failedCard(job, texts.large));
  text.textContent = texts.sending;
  if (await isUnreadable(file)) return finish(job, failedCard(job, texts.unreadable));
  if (!active.has(job)) return; // cancelled
  const body = new FormData();
  body.append("image", file, job.name);
  job.abort = upload(job.action, body, "document", true, {
    progress(share) {
      text.textContent = texts.sending;
      bar.value = share;
    },
    sent() {
      bar.removeAttribute("value");
      text.textContent = texts.writing;
    },
    wait() {
      bar.value = 0;
      text.textContent = waitingText;
    },
    answer: ({ response }) => finish(job, answerCard(job, response)),
  });
}

// The card of one photo, taken from the page that the server answers with.
function answerCard(job, page) {
  const card = page?.querySelector("#captions .photo");
  if (!card) return failedCard(job, page?.querySelector("main > .problem")?.textContent);
  return document.adoptNode(card);
}

function failedCard(job, problem) {
  const card = fromTemplate("failed");
  if (problem) card.querySelector("h2").textContent = problem;
  nameCard(card, job.name);
  if (problem !== texts.large) {
    const again = card.querySelector(".again");
    again.hidden = false;
    again.addEventListener("click", () => {
      replace(card, waitingCard(job));
      waiting.push(job);
      total += 1;
      next();
    });
  }
  return card;
}

async function finish(job, card) {
  const decoded = card.querySelector("img")?.decode().catch(() => {});
  await Promise.race([decoded, new Promise((resolve) => setTimeout(resolve, 500))]); // avoids flicker; hidden tabs decode nothing
  if (!active.delete(job)) return; // cancelled
  URL.revokeObjectURL(job.card.querySelector("img").src);
  if (card.querySelector("textarea")) {
    kept.set(card, { key: job.key, html: card.outerHTML, about: job.about });
    card.file = job.file; // for zip.js
    save(card);
  }
  replace(job.card, card);
  enhance(card);
  done += 1;
  status.textContent = fill(texts.described, { done, total, name: job.name, caption: card.querySelector("h2").textContent });
  next();
}

function cancel(job) {
  job.abort?.();
  active.delete(job);
  if (waiting.includes(job)) waiting.splice(waiting.indexOf(job), 1);
  total -= 1;
  URL.revokeObjectURL(job.card.querySelector("img").src);
  remove(job.card);
  next();
}

function replace(old, card) {
  const focused = old.contains(document.activeElement);
  old.replaceWith(card);
  if (focused) (card.querySelector("textarea") ?? card.querySelector("button:not([hidden])"))?.focus();
}

function remove(card) {
  const neighbour = card.nextElementSibling ?? card.previousElementSibling;
  stopSpeech(card.querySelector(".speak"));
  storage.removeItem(kept.get(card)?.key);
  for (const cards of [kept, unsaved, edited]) cards.delete(card);
  status.textContent = fill(texts.removed, { name: nameOf(card) });
  card.remove();
  (neighbour?.querySelector(".actions button:not([hidden])") ?? form.querySelector("#photos")).focus();
}

// A card with its caption: words, choices, copying, saving

function enhance(card) {
  for (const button of card.querySelectorAll(".actions button:not(.again, .speak, .strip)")) button.hidden = false;
  card.querySelector(".remove").addEventListener("click", () => {
    if (!edited.has(card) || confirm(texts.removal)) remove(card);
  });
  const field = card.querySelector("textarea");
  if (!field) return;
  field.addEventListener("input", () => {
    edited.add(card);
    save(card);
  });
  onClick(card.querySelector(".copy"), () => copyText(field.value));
  onClick(card.querySelector(".copy-alt"), () => copyText(Object.assign(document.createElement("img"), { alt: field.value }).outerHTML));
  offerSpeech(card.querySelector(".speak"), () => field.value, () => field.lang);
  onClick(card.querySelector(".strip"), () => saveStrip(card));
  const choices = [...card.querySelectorAll(".choices li")];
  const sentences = choices.map((choice) => choice.querySelector("span").textContent);
  for (const [index, choice] of choices.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...choice.childNodes);
    choice.append(button);
    button.addEventListener("click", () => {
      choose(card, choice);
      const isOwn = field.value.trim() && !sentences.includes(field.value);
      if (!isOwn || confirm(texts.replace)) {
        field.value = sentences[index];
        edited.delete(card);
      }
      save(card);
    });
  }
  choose(card, choices[card.dataset.chosen ?? 0]);
}

// Shows a caption, its words as buttons and its confidence.
function choose(card, choice) {
  const choices = [...card.querySelectorAll(".choices li")];
  for (const other of choices) other.firstElementChild.setAttribute("aria-pressed", other === choice);
  card.dataset.chosen = choices.indexOf(choice);
  const text = choice.querySelector("span").textContent;
  const sure = choice.querySelector("small").textContent;
  card.querySelector("h2").firstElementChild?.replaceChildren(text);
  card.querySelector(".sure span").textContent = sure;
  card.querySelector(".sure rect:last-child").setAttribute("width", choice.dataset.sure);
  const words = JSON.parse(choice.dataset.words);
  if (words) showAttention(card, words, sure, choice.dataset.sure);
}

// Runs an action and shows the message that it returns on the button for two seconds.
function onClick(button, action) {
  const label = [...button.childNodes];
  button.addEventListener("click", async () => {
    const message = await action();
    if (!message) return;
    button.textContent = status.textContent = message;
    setTimeout(() => button.replaceChildren(...label), 2000);
  });
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => texts.copied, () => texts.uncopied);
  const field = Object.assign(document.createElement("textarea"), { value: text }); // no clipboard over plain HTTP
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused.focus({ preventScroll: true });
  return copied ? texts.copied : texts.uncopied;
}

// Keeping the cards when this tab is reloaded

function openStorage() {
  try {
    return sessionStorage;
  } catch {
    return { setItem: null, removeItem() {}, clear() {} }; // this browser stores nothing, so that each card stays unsaved
  }
}

function savedKeys() {
  return Object.keys(storage)
    .filter((key) => key.startsWith("photo "))
    .sort((a, b) => a.slice(6) - b.slice(6));
}

function save(card) {
  const { key, html, about } = kept.get(card) ?? {};
  if (!key) return void unsaved.add(card); // the card is part of an answer to the form without script
  try {
    storage.setItem(key, JSON.stringify({ html, about, text: textOf(card), chosen: card.dataset.chosen, own: edited.has(card) }));
    unsaved.delete(card);
  } catch {
    unsaved.add(card); // no room: the browser asks before it leaves the page
  }
}

function restore() {
  for (const key of savedKeys()) {
    const { html, about, text, chosen, own } = JSON.parse(storage.getItem(key));
    const card = new DOMParser().parseFromString(html, "text/html").querySelector(".photo");
    card.querySelector("textarea").value = text;
    if (own ?? true) edited.add(card); // unknown if an older version of this page kept it
    if (chosen) card.dataset.chosen = chosen;
    captions.append(document.adoptNode(card));
    kept.set(card, { key, html, about });
  }
}

let inside = false; // whether the latest click was on a link to a page of this site: the cards are kept then
document.addEventListener("click", ({ target, defaultPrevented, ctrlKey, metaKey, shiftKey }) => {
  inside = !(defaultPrevented || ctrlKey || metaKey || shiftKey) && target.closest("a")?.origin === location.origin;
});
for (const kind of ["input", "pageshow"]) addEventListener(kind, () => (inside = false));

guardEdits(() => active.size || unsaved.size || (edited.size && !inside));

addEventListener("online", () => {
  for (const button of captions.querySelectorAll(".again:not([hidden])")) button.click();
});

results.addEventListener("submit", async (event) => {
  const sent = textsOf([...captions.querySelectorAll(".photo:has(textarea)")]);
  const problem = await download(event, new FormData(results));
  note.textContent = problem ?? "";
  if (!problem) haveDownloaded(sent);
});

const textOf = (card) => card.querySelector("textarea").value;

/** Card → its text now. */
const textsOf = (cards) => new Map(cards.map((card) => [card, textOf(card)]));

/** These texts, as from `textsOf`, are in a file now. Some cards may have another one by then. */
function haveDownloaded(sent) {
  for (const [card, text] of sent) {
    if (textOf(card) !== text) continue;
    edited.delete(card);
    if (kept.has(card)) save(card);
    else unsaved.delete(card);
  }
}

document.querySelector("#clear").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab
  if (edited.size && !confirm(texts.discard)) return event.preventDefault();
  for (const { abort } of active) abort?.();
  for (const jobs of [active, unsaved, edited]) jobs.clear();
  storage.clear();
});

// Choosing, pasting and dropping photos

for (const input of form.querySelectorAll("input")) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
}

for (const button of form.querySelectorAll(".samples button")) {
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    const response = await fetch(button.firstElementChild.src).catch(() => null);
    const blob = response?.ok ? await response.blob() : new Blob();
    const focused = document.activeElement === button;
    add([new File([blob], `${button.value}.webp`, { type: blob.type })]);
    if (focused) form.querySelector("#photos").focus({ preventScroll: true }); // the drawings are hidden now
  });
}

onPaste(add);

onDrop(form, (transfer) => add(transfer.files));

// The options are in the address, so that they can be bookmarked and shared.
options.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("input", (event) => {
  if (event.target !== language && event.target.form !== options) return;
  if (language) options.elements.language.value = language.value;
  if (!options.checkValidity()) {
    options.parentElement.open = true; // a closed one hides the message
    return options.reportValidity();
  }
  const action = new URL(form.action); // the address of an error page may be another one
  action.search = new URLSearchParams(new FormData(options));
  form.action = action;
  history.replaceState(null, "", action.search);
});

document.documentElement.classList.add("js");
if (!captions.childElementCount) restore();
for (const card of captions.querySelectorAll(".photo")) {
  try {
    enhance(card);
  } catch {} // a card that was kept by an older version of this page still has its text
}

export { captions, form, haveDownloaded, nameOf, note, status, textsOf };
