// A worker that makes small JPEG copies of photos: file → blob, or null for a file that the browser cannot show.

const SIDE = 640; // pixels of the longer side, at most

async function shrink(file) {
  const photo = await createImageBitmap(file); // upright
  const scale = Math.min(1, SIDE / Math.max(photo.width, photo.height));
  const size = [photo.width, photo.height].map((side) => Math.max(1, Math.round(scale * side)));
  const canvas = new OffscreenCanvas(...size);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "#fff"; // under transparent parts
  context.fillRect(0, 0, ...size);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, ...size);
  photo.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
}

let last = Promise.resolve(); // one photo at a time: a large one takes much memory
onmessage = ({ data: { id, file } }) => {
  last = last.then(async () => postMessage({ id, blob: await shrink(file).catch(() => null) }));
};
