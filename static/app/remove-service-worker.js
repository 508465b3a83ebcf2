// Takes the place of service-worker.js where a key is needed: removes it and the pages that it has kept.

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(caches.delete("pages").then(() => registration.unregister())));
