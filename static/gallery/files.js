// The photos that were chosen or dropped, as {file, name}. In a folder, the name is the path.

const PHOTO = /\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf])$/i;
const isHidden = (file) => file.name.startsWith("."); // macOS keeps a file of data beside each photo: ._photo.jpg
const isPhoto = (file) => !isHidden(file) && (file.type.startsWith("image/") || PHOTO.test(file.name));

export function chosenFiles(input) {
  const items = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  return input.webkitdirectory ? items.filter(({ file }) => isPhoto(file)) : items;
}

/**
 * What tells a file from others: its name, size and date. The browser looks up size and date on the disk, about a
 * millisecond for each file, so that hundreds would hold up the page.
 */
export async function fileKeys(items) {
  const keys = [];
  let start = -Infinity;
  for (const { file, name } of items) {
    if (performance.now() - start > 20) {
      await new Promise((resolve) => setTimeout(resolve));
      start = performance.now();
    }
    keys.push(`${name} ${file.size} ${file.lastModified}`);
  }
  return keys;
}

/** Must be called while the event is dispatched: the browser forgets dropped items afterwards. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => ({ file, name: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return file && isPhoto(file) ? [{ file, name: entry.fullPath.slice(1) }] : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) break;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
  return found;
}
