// The gallery of this browser, in IndexedDB: "photos" holds captions and reviews, "thumbnails" the small copies.
// A photo: {id, key, name, language, choices: [{caption, confidence}], text, reviewed, decorative}, or {…, error}.

let problem = () => {};
const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("gallery", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("photos", { keyPath: "id" });
    request.result.createObjectStore("thumbnails");
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Runs `work(stores)`; gives the result of the request that it returns. */
async function transact(mode, work) {
  const transaction = (await opened).transaction(["photos", "thumbnails"], mode);
  const request = work((name) => transaction.objectStore(name));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

const write = (work) => transact("readwrite", work).catch((error) => problem(error));

/** Calls `handler` when something could not be stored. */
export const onProblem = (handler) => (problem = handler);

export const loadPhotos = () => transact("readonly", (store) => store("photos").getAll());

export const loadThumbnail = (id) => transact("readonly", (store) => store("thumbnails").get(id)).catch(() => undefined);

export function savePhoto(photo) {
  return write((store) => void store("photos").put(photo));
}

export function saveThumbnail(id, blob) {
  return write((store) => void store("thumbnails").put(blob, id));
}

/** Its thumbnail stays until `forgetEverything` or the next visit, so that this can be undone. */
export function removePhoto(id) {
  return write((store) => void store("photos").delete(id));
}

/** Removes thumbnails without a photo. */
export function sweep(ids) {
  const known = new Set(ids);
  return write((store) => {
    store("thumbnails").getAllKeys().onsuccess = (event) => {
      for (const id of event.target.result) if (!known.has(id)) store("thumbnails").delete(id);
    };
  });
}

export function forgetEverything() {
  return write((store) => {
    store("photos").clear();
    store("thumbnails").clear();
  });
}
