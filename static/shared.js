// What the scripts of several pages share.

export const texts = document.querySelector("#texts").dataset; // in the language of the page

/** Puts values in place of their {names}. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** A caption as the model writes it, as a sentence for people. */
export const sentence = (caption) => caption && `${caption[0].toUpperCase()}${caption.slice(1)}.`;

export function saveFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // phones ask before they save it
}

/** A name that is not in `taken`, with a number if need be, and adds it: image.png, image (2).png, … */
export function newName(name, taken) {
  const [, stem, suffix] = name.match(/^(.*?)(\.[^./]*)?$/s);
  let fresh = name;
  for (let number = 2; taken.has(fresh); number += 1) fresh = `${stem} (${number})${suffix ?? ""}`;
  taken.add(fresh);
  return fresh;
}

/** Whether the browser cannot read a file: a folder, or one that was changed, moved or deleted since it was chosen. */
export const isUnreadable = (file) => file.slice(0, 1).arrayBuffer().then(() => false, () => true);

/** The problem that a page of the server names. */
async function problemIn(response) {
  const page = new DOMParser().parseFromString((await response?.text().catch(() => null)) ?? "", "text/html");
  return page.querySelector("main > .problem")?.textContent;
}

/** Sends a form that is answered by a file. Gives {blob, name}, or {problem}: what the server says is wrong, if it does. */
export async function fetchFile(address, body) {
  const response = await fetch(address, { method: "POST", body }).catch(() => null);
  if (!response?.ok) return { problem: await problemIn(response) };
  const [, name] = response.headers.get("Content-Disposition")?.match(/"(.+)"/) ?? [];
  const blob = await response.blob().catch(() => null);
  return blob && name ? { blob, name } : {}; // without a name, it is another page, such as that of a proxy
}

/** Saves the answer to a form that is submitted, so that no error replaces the page. Gives the error, or null. */
export async function download(event, fields) {
  event.preventDefault();
  const { blob, name, problem } = await fetchFile(event.submitter.formAction, new URLSearchParams([...fields]));
  if (!blob) return problem ?? texts.unreachable;
  saveFile(blob, name);
  return null;
}

/** Asks before the page is left, as long as `isUnsaved()`. */
export function guardEdits(isUnsaved) {
  addEventListener("beforeunload", (event) => isUnsaved() && event.preventDefault());
}

/** Calls `take(files)` when files are pasted, but not for the picture of itself that a text from an office program has. */
export function onPaste(take) {
  document.addEventListener("paste", ({ target, clipboardData: { files, types } }) => {
    const isText = types.includes("text/plain") && target.closest("textarea, input");
    if (files.length && !isText) take([...files]);
  });
}

/** Calls `take(dataTransfer)` when files are dropped anywhere on the page. `form` shows that they may be. */
export function onDrop(form, take) {
  let own = false; // whether a picture of this page is dragged: some browsers give it as a file
  document.addEventListener("dragstart", ({ target }) => {
    own = true;
    target.addEventListener("dragend", () => (own = false), { once: true }); // it does not bubble if `target` is gone
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      form.classList.toggle("target", !own && (kind === "dragover" || kind === "dragenter"));
      if (kind === "drop" && !own) take(event.dataTransfer);
    });
  }
}

const TRIES = 4; // for an upload that the server is too busy for, or does not get
export const BUSY = [429, 502, 503, 504]; // statuses after which another try may succeed
const LONGEST = 60; // seconds that a photo waits for it

/** Seconds until the next try: what the server asks for, else `wait`; null if that is too long. A date counts as none. */
export function secondsToWait(retryAfter, wait) {
  const asked = Number(retryAfter ?? NaN);
  const seconds = Math.max(1, Number.isNaN(asked) ? wait : asked);
  return seconds <= LONGEST ? seconds : null;
}

/**
 * Sends a form with files, again if the server is too busy. Gives a function that cancels it.
 *
 * @param {boolean} lost whether to send it again also if there was no answer
 * @param {object} hooks progress(share) while it is sent, sent() afterwards (optional), wait() before
 *   another try, and answer(request) at the end, also without an answer
 */
export function upload(address, body, responseType, lost, { progress, sent, wait, answer }) {
  let request;
  let timer;
  const send = (tries) => {
    request = new XMLHttpRequest(); // fetch() does not report upload progress
    request.open("POST", address);
    request.responseType = responseType;
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.upload.onload = sent;
    request.onload = request.onerror = () => {
      const seconds = secondsToWait(request.getResponseHeader("Retry-After"), 2 ** (tries - 1));
      const busy = request.status ? BUSY.includes(request.status) : lost;
      if (!busy || tries === TRIES || !seconds) return answer(request);
      wait();
      timer = setTimeout(send, 1000 * seconds, tries + 1);
    };
    request.send(body);
  };
  send(1);
  return () => {
    clearTimeout(timer);
    request.abort();
  };
}
