// Makes the pages open without a connection (see service-worker.js) and says when there is none.

const notice = document.querySelector("#offline");
let kept = "kept" in document.documentElement.dataset; // the service worker had to answer

function show() {
  notice.hidden = navigator.onLine && !kept;
}

show();
addEventListener("offline", show);
addEventListener("online", () => {
  kept = false;
  show();
});
navigator.serviceWorker?.register("/service-worker.js").catch(() => {}); // the browser may not allow it
