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
