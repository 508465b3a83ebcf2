// Makes the pages open without a connection (see service-worker.js) and says when the server does not answer.

const notice = document.querySelector("#offline");
const kept = "kept" in document.documentElement.dataset; // the service worker had to answer
const WAIT = 5000; // milliseconds for an answer, and to the next question
let timer;

/** A server on this computer answers without a network, too. */
async function check() {
  clearTimeout(timer);
  const answer = await fetch("/health", { signal: AbortSignal.timeout(WAIT) }).catch(() => null);
  notice.hidden = Boolean(answer?.ok);
  clearTimeout(timer);
  if (!notice.hidden) timer = setTimeout(check, WAIT);
}

notice.hidden = !kept;
if (kept || !navigator.onLine) check();
addEventListener("offline", check);
navigator.serviceWorker?.register("/service-worker.js").catch(() => {}); // the browser may not allow it
