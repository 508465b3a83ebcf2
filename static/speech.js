// Reads texts aloud, where the browser has voices.

const voices = globalThis.speechSynthesis;

function show(button) {
  button.hidden = !voices.getVoices().length;
}

// Some browsers load their voices later.
voices?.addEventListener?.("voiceschanged", () => document.querySelectorAll(".speak").forEach(show));

/** Shows `button`, which then reads `text()` in `language()`, or stops. Its aria-pressed says whether it reads. */
export function offerSpeech(button, text, language) {
  if (!voices) return;
  show(button);
  button.addEventListener("click", () => {
    const reading = button.getAttribute("aria-pressed") === "true";
    voices.cancel();
    if (reading) return;
    const speech = new SpeechSynthesisUtterance(text());
    speech.lang = language();
    speech.onend = speech.onerror = () => button.setAttribute("aria-pressed", false);
    button.setAttribute("aria-pressed", true);
    voices.speak(speech);
  });
}

/** Stops the reading that `button` has started. */
export function stopSpeech(button) {
  if (button?.getAttribute("aria-pressed") === "true") button.click();
}
