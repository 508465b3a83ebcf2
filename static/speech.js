// Reads texts aloud, where the browser has voices.

/** Shows `button`, which then reads `text()` in `language()`, or stops. Its aria-pressed says whether it reads. */
export function offerSpeech(button, text, language) {
  const voices = globalThis.speechSynthesis;
  if (!voices) return;
  const show = () => (button.hidden = !voices.getVoices().length); // some browsers load their voices later
  show();
  voices.addEventListener?.("voiceschanged", show);
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
