// Makes the pages open without a connection (see service-worker.js) and says when the server does not answer.

const notice = document.querySelector("#offline");
const kept = "kept" in document.documentElement.dataset; // the service worker had to answer
const WAIT = 5000; // milliseconds to the next question

/** A server on this computer answers without a network, too. */
async function check() {
  const answer = await fetch("/health").catch(() => null);
  notice.hidden = Boolean(answer?.ok);
  if (!notice.hidden) setTimeout(check, WAIT);
}

if (kept || !navigator.onLine) check();
addEventListener("offline", check);
navigator.serviceWorker?.register("/service-worker.js").catch(() => {}); // the browser may not allow it
