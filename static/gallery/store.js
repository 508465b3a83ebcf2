// The gallery of this browser, in IndexedDB: "photos" holds captions and reviews, "thumbnails" the small copies.
// A photo: {id, key, name, language, choices: [{caption, confidence}], text, reviewed, decorative, before}, or {…, error}.

let problem = () => {};
let opened; // a promise of the database
let existed = false; // whether there was one since this page was opened

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("gallery", 1);
    request.onupgradeneeded = () => {
      if (existed) problem(); // the browser has deleted it: only this page has the photos now
      request.result.createObjectStore("photos", { keyPath: "id" });
      request.result.createObjectStore("thumbnails");
    };
    request.onsuccess = () => {
      existed = true;
      request.result.onclose = () => (opened = undefined); // phones close it in the background
      resolve(request.result);
    };
    request.onerror = () => {
      opened = undefined;
      reject(request.error);
    };
  });
  return opened;
}

/** Runs `work(store, …)` on the stores of these names; gives the result of the request that it returns. */
async function transact(names, mode, work) {
  const transaction = (await database()).transaction(names, mode, { durability: "relaxed" });
  const request = work(...names.map((name) => transaction.objectStore(name)));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

const write = (names, work) => transact(names, "readwrite", work).catch(() => problem());

/** Calls `handler` when something could not be stored. */
export const onProblem = (handler) => (problem = handler);

export const loadPhotos = () => transact(["photos"], "readonly", (photos) => photos.getAll());

export const loadPhoto = (id) => transact(["photos"], "readonly", (photos) => photos.get(id));

const channel = openChannel(); // to the same page in other tabs

function openChannel() {
  try {
    return new BroadcastChannel("gallery");
  } catch {
    return { postMessage() {} }; // this browser stores nothing, so that there is nothing to announce
  }
}

/** Announces to other tabs that a photo was changed or removed; without `id`, that all were removed. */
export const announceChange = (id = null) => channel.postMessage(id);

/** Calls `handler(id)` when another tab announces a change. */
export const onChangeElsewhere = (handler) => (channel.onmessage = ({ data }) => handler(data));

export function loadThumbnail(id) {
  return transact(["thumbnails"], "readonly", (thumbnails) => thumbnails.get(id)).catch(() => undefined);
}

let asked = false; // whether the browser was asked to keep the gallery when it needs room

export async function savePhoto(photo) {
  await write(["photos"], (photos) => void photos.put(photo));
  if (!asked) navigator.storage?.persist?.().catch(() => {});
  asked = true;
}

export function saveThumbnail(id, blob) {
  return write(["thumbnails"], (thumbnails) => void thumbnails.put(blob, id));
}

/** Its thumbnail stays until `forgetEverything` or the next visit, so that this can be undone. */
export function removePhoto(id) {
  return write(["photos"], (photos) => void photos.delete(id));
}

/** Removes thumbnails without a photo. */
export function sweep() {
  return write(["photos", "thumbnails"], (photos, thumbnails) => {
    photos.getAllKeys().onsuccess = ({ target: { result: known } }) => {
      thumbnails.getAllKeys().onsuccess = ({ target: { result: all } }) => {
        const wanted = new Set(known);
        for (const id of all) if (!wanted.has(id)) thumbnails.delete(id);
      };
    };
  });
}

export function forgetEverything() {
  return write(["photos", "thumbnails"], (photos, thumbnails) => {
    photos.clear();
    thumbnails.clear();
  });
}

/** Whether letters, digits and ? are keys of the review. */
export function lettersAct() {
  try {
    return localStorage.letters !== "off";
  } catch {
    return true; // this browser stores nothing
  }
}

export function keepLetters(act) {
  try {
    localStorage.letters = act ? "on" : "off";
  } catch {} // until the page is closed
}
