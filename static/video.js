// The page for clips: uploads a clip, asks for the result of its job, and shows a timeline with captions to edit.
// The clip itself is played from the visitor's own disk.

import { fill, guardEdits, isUnreadable, onDrop, saveFile, sentence, texts, upload } from "./shared.js";

const POLL = 1000; // milliseconds between two questions; a job that nobody asks about for two minutes ends
const TRIES = 60; // questions without an answer
const PATIENCE = 20_000; // milliseconds until an answer begins
const secondsFormat = new Intl.NumberFormat(document.documentElement.lang, { minimumIntegerDigits: 2, minimumFractionDigits: 1 });

const find = (selector) => document.querySelector(selector);
const form = find("#upload");
const input = find("#file");
const work = find("#work");
const result = find("#result");
const problem = find("#problem");
const status = find("#status");
const timeline = find("#timeline");
const video = find("#result video");
const picture = find("#result figure img");
let job = null; // {file, abort, url}: the clip that is being captioned
let shown = null; // {name, segments}: the clip whose captions are shown
let unsaved = false; // whether a caption was edited since the last download

// Captioning

function caption(file) {
  if (file.size > form.dataset.limit) return fail(texts.large);
  if (unsaved && !confirm(texts.discard)) return;
  if (job && !confirm(texts.replace)) return;
  cancel();
  problem.hidden = true;
  video.pause(); // a hidden player would be heard
  result.hidden = true;
  work.hidden = false;
  work.querySelector(".name").textContent = file.name;
  job = { file };
  status.textContent = ""; // so that the first stage is announced again
  show(texts.sending, 0);
  send(job);
}

async function send(current) {
  if (await isUnreadable(current.file)) return finish(current, texts.unreadable);
  if (job !== current) return;
  const body = new FormData();
  body.append("video", current.file, current.file.name);
  const language = form.querySelector("select")?.value;
  current.abort = upload(form.action + (language ? `?language=${language}` : ""), body, "json", false, {
    progress: (share) => show(texts.sending, share),
    wait: () => show(texts.waiting, 0),
    answer({ status, response }) {
      if (status !== 202) return finish(current, response?.message ?? texts.unreachable);
      current.url = response.url;
      show(texts.reading, 0);
      ask(current);
    },
  });
}

async function ask(current, failures = 0) {
  const patience = new AbortController();
  let timer = setTimeout(() => patience.abort(), PATIENCE);
  const response = await fetch(`${current.url}?thumbnails=true`, { signal: patience.signal }).catch(() => null);
  clearTimeout(timer);
  timer = setTimeout(() => patience.abort(), 5 * PATIENCE); // the answer may be large
  const answer = await response?.json().catch(() => null);
  clearTimeout(timer);
  if (job !== current) return;
  if (answer?.state === "done") return finish(current, null, answer.segments);
  if (response?.ok && answer) show(texts.reading, answer.progress);
  else if (answer?.message) return finish(current, answer.message);
  else if (failures === TRIES) return finish(current, texts.unreachable);
  setTimeout(() => job === current && ask(current, response?.ok && answer ? 0 : failures + 1), POLL);
}

function finish(current, message, segments) {
  if (job !== current) return;
  job = null;
  const focused = work.contains(document.activeElement);
  work.hidden = true;
  if (current.url) forget(current.url);
  if (message) fail(message);
  else showTimeline(current.file, segments);
  if (focused) ((message ? null : timeline.querySelector("textarea")) ?? input).focus({ preventScroll: true });
}

function cancel() {
  if (!job) return;
  job.abort?.();
  if (job.url) forget(job.url);
  job = null;
  work.hidden = true;
  result.hidden = !shown;
}

function forget(url) {
  fetch(url, { method: "DELETE", keepalive: true }).catch(() => {}); // without it, the job ends by itself
}

function fail(message) {
  problem.textContent = message;
  problem.hidden = false;
  result.hidden = Boolean(job) || !shown;
}

// How far it is: progress from 0 to 1, or null if nobody knows.
function show(stage, progress) {
  const text = work.querySelector("#stage");
  if (text.textContent !== stage || !status.textContent) text.textContent = status.textContent = stage;
  const bar = work.querySelector("progress");
  if (progress === null) bar.removeAttribute("value");
  else bar.value = progress;
}

find("#cancel").addEventListener("click", () => {
  cancel();
  status.textContent = texts.cancelled;
  input.focus();
});

// The timeline

function showTimeline(file, segments) {
  problem.hidden = true;
  shown = { name: file.name, segments };
  unsaved = false;
  play(file);
  timeline.replaceChildren(...segments.map(row));
  result.hidden = false;
  status.textContent = fill(texts.ready, { count: segments.length });
  result.scrollIntoView({ block: "nearest" });
}

function play(file) {
  const isPicture = file.type.startsWith("image/"); // GIF and WebP
  const [player, other] = isPicture ? [picture, video] : [video, picture];
  for (const element of [player, other]) {
    if (element.src) URL.revokeObjectURL(element.src);
    element.removeAttribute("src");
    element.hidden = element !== player;
  }
  find(".unplayable").hidden = true;
  player.src = URL.createObjectURL(file);
}

function refuse() {
  if (!video.hasAttribute("src")) return;
  video.hidden = true;
  find(".unplayable").hidden = false;
  for (const button of timeline.querySelectorAll(".seek")) button.disabled = true;
}

video.addEventListener("error", refuse);
video.addEventListener("loadedmetadata", () => video.videoWidth || refuse()); // only its sound can be played

function row(segment) {
  const item = find("#segment").content.firstElementChild.cloneNode(true);
  const [start, end] = [segment.start, segment.end].map(clock);
  const seek = item.querySelector(".seek");
  const field = item.querySelector("textarea");
  field.lang = segment.language;
  item.querySelector("img").src = segment.thumbnail;
  item.querySelector(".time").textContent = `${start} – ${end}`;
  item.querySelector("label span").textContent = fill(texts.label, { start, end });
  field.value = segment.text = sentence(segment.caption);
  field.addEventListener("input", () => {
    segment.text = field.value;
    unsaved = true;
  });
  seek.setAttribute("aria-label", fill(texts.seek, { time: `${start} – ${end}` }));
  seek.disabled = video.hidden;
  seek.addEventListener("click", () => {
    video.currentTime = segment.start + 0.01; // else the last frame of the shot before may be shown
  });
  return item;
}

// 61.4 → 1:01.4
function clock(time) {
  const tenths = Math.round(10 * time);
  return `${Math.floor(tenths / 600)}:${secondsFormat.format((tenths % 600) / 10)}`;
}

function mark() {
  const index = shown?.segments.findLastIndex((segment) => segment.start <= video.currentTime) ?? -1;
  timeline.querySelector("[aria-current]")?.removeAttribute("aria-current");
  timeline.children[index]?.setAttribute("aria-current", "true");
}

for (const kind of ["timeupdate", "seeking", "loadeddata"]) video.addEventListener(kind, mark);

// Downloads, with the edits

const FORMATS = {
  vtt: (segments) => `WEBVTT\n\n${cues(segments, ".", escape).join("\n")}`,
  srt: (segments) => cues(segments, ",", (text) => text.replaceAll("-->", "→")).map((cue, index) => `${index + 1}\n${cue}`).join("\n"),
  json: (segments) =>
    JSON.stringify(
      { video: shown.name, segments: segments.map(({ thumbnail, text, ...rest }) => ({ ...rest, caption: oneLine(text) })) },
      null,
      2,
    ) + "\n",
};

const oneLine = (text) => text.replace(/\s+/g, " ").trim();
const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function cues(segments, point, encode) {
  return segments
    .filter(({ text }) => oneLine(text))
    .map(({ start, end, text }) => `${stamp(start, point)} --> ${stamp(end, point)}\n${encode(oneLine(text))}\n`);
}

function stamp(seconds, point) {
  const time = new Date(Math.round(1000 * seconds)).toISOString(); // 1970-01-01T00:00:04.200Z
  return time.slice(11, 23).replace(".", point);
}

for (const button of result.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => {
    const { format } = button.dataset;
    const name = `${shown.name.replace(/\.\w+$/, "")}.${format}`;
    saveFile(new Blob([FORMATS[format](shown.segments)], { type: "application/octet-stream" }), name); // iOS adds .txt to text/plain
    unsaved = false;
  });
}

// Choosing and dropping a clip, leaving the page

input.addEventListener("change", () => {
  if (input.files.length) caption(input.files[0]);
  input.value = "";
});

onDrop(form, ({ files }) => files.length && caption(files[0]));

guardEdits(() => job || unsaved);
addEventListener("pagehide", cancel);
