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
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Asks before the page is left, as long as `isUnsaved()`. The download of a form leaves no page. */
export function guardEdits(isUnsaved) {
  let downloading;
  addEventListener("submit", () => {
    clearTimeout(downloading);
    downloading = setTimeout(() => (downloading = undefined), 1000);
  });
  addEventListener("beforeunload", (event) => {
    if (!downloading && isUnsaved()) event.preventDefault();
  });
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
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      form.classList.toggle("target", kind === "dragover" || kind === "dragenter");
      if (kind === "drop") take(event.dataTransfer);
    });
  }
}
