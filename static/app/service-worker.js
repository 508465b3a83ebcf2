// Opens the pages without a connection. A page comes from the server if that answers in time, and then so does its code.
// What the server answered last is kept for the time without it. Answers with photos or captions are never kept.

const PAGES = ["/", "/gallery"];
const FILES = ["/static/gallery/thumbnailer.js"]; // that only scripts name
const NAME = "pages";
const WAIT = 8000; // milliseconds for a page, if there is one that was kept
let away = 0; // when the server had not answered for the latest page

/** Keeps the pages and every file that they need. */
async function fill() {
  const cache = await caches.open(NAME);
  const files = new Set(FILES);
  for (const path of PAGES) {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    await cache.put(path, response.clone());
    for (const [, file] of (await response.text()).matchAll(/(?:href|src)="(\/static\/[^"]+)"/g)) files.add(file);
  }
  await cache.addAll([...files]);
}

addEventListener("install", (event) => event.waitUntil(fill().then(() => skipWaiting())));
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname, search } = new URL(url);
  if (method !== "GET" || origin !== location.origin) return;
  if (PAGES.includes(pathname)) event.respondWith(answer(event, pathname, !search)); // not with chosen options
  if (pathname.startsWith("/static/")) event.respondWith(answer(event, pathname, true));
});

async function answer(event, path, keep) {
  const isPage = event.request.mode === "navigate";
  const kept = await caches.match(path, { cacheName: NAME, ignoreVary: true }).catch(() => null);
  if (kept && !isPage && Date.now() - away < WAIT) return kept; // files of a page that was kept
  const fetched = fetch(event.request).catch(() => null);
  const late = new Promise((resolve) => setTimeout(resolve, WAIT, null));
  const response = await (kept && isPage ? Promise.race([fetched, late]) : fetched);
  if (response && ![502, 503, 504].includes(response.status)) {
    const copy = response.clone();
    if (response.ok && keep) event.waitUntil(caches.open(NAME).then((cache) => cache.put(path, copy)).catch(() => {})); // no room
    if (isPage) away = 0;
    return response;
  }
  if (!kept) return response ?? Response.error();
  if (!isPage) return kept;
  away = Date.now();
  const html = (await kept.text()).replace("<html", "<html data-kept");
  return new Response(html, { headers: kept.headers });
}
