"""Read a photo as an upright RGB array, or raise a clear `ImageError`.

```python
image = read_image("holiday.jpg")          # uint8 (H, W, 3)
small = resize_image(image, (224, 224))    # the input of an encoder
```
"""

import base64
import io
import math
import os
import re
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import (  # noqa: F401  # else Pillow loads all its 40 plugins
    AvifImagePlugin,
    ExifTags,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.JpegImagePlugin import JpegImageFile

from captioning.colours import BITS, WHITE_IS_ZERO, to_rgb, to_srgb

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""The only formats that are tried, whatever the name of the file. No other Pillow plugin runs."""

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
}
"""Suffixes of photos, when a folder is searched."""

MAX_PIXELS = 50_000_000
"""Larger pictures are refused as soon as their header is read, before any pixel is decoded."""

PngImagePlugin.MAX_TEXT_CHUNK = 2**23  # bytes; some programs store metadata of more than Pillow's one megabyte

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture with an EXIF orientation upright."""

WITH_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # in the `info` of an image

MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of a JPEG's segment, scan or end
MAX_SCANS = 15
"""The most scans of a progressive JPEG of `MAX_PIXELS`. A smaller picture may have more. Ten are usual; thousands only
keep a server busy."""

MAX_STEP = 2.25
"""The largest distance between sampled pixels when a photo is made smaller: about that from Flickr's 500 to 224."""


class ImageError(ValueError):
    """A photo that cannot be read. The message states what is wrong and what to do.

    Its `kind` is "unsupported", "too large" or "damaged".
    """

    def __init__(self, message: str, kind: str = "damaged"):
        super().__init__(message)
        self.kind = kind


class Preview(NamedTuple):
    """A small copy of a photo: a JPEG file, and its width and height in pixels."""

    jpeg: bytes
    width: int
    height: int

    @property
    def url(self) -> str:
        """The file as a data: URL, for an `<img>`."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()

    @property
    def pixels(self) -> np.ndarray:
        """The copy as a uint8 array of shape (height, width, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg), formats=["JPEG"]))


class Photo(NamedTuple):
    """A photo as the encoder wants it: `image` is a uint8 array of shape (size, size, 3). `width` and `height` are
    pixels of the upright original."""

    image: np.ndarray
    width: int
    height: int
    preview: Preview | None


def read_image(source: Any, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a photo as an upright RGB array.

    Of an animation, it reads the first frame. Transparent areas become white. The EXIF orientation and the colour
    profile are applied.

    Args:
        source: path, bytes, binary file, PIL image, or uint8 array of shape
            (H, W), (H, W, 3) or (H, W, 4).
        min_size: (height, width) that the caller will resize to. A large JPEG is then decoded
            at a half, a quarter or an eighth, which is several times faster, as long as each
            side stays at least twice as long as asked for.

    Returns:
        uint8 array of shape (H, W, 3).

    Raises:
        ImageError: not a photo, incomplete, empty, larger than `MAX_PIXELS`, or too large for the memory.
        TypeError: ``source`` is none of these.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    return np.asarray(open_photo(source, min_size))


def open_photo(source: Any, min_size: tuple[int, int] | None = None) -> Image.Image:
    """Like `read_image`, but returns a Pillow image of mode RGB. It takes no arrays.

    The `info["original_size"]` of a photo from a file is the (width, height) in pixels of the upright original. The
    image itself may be smaller (see `min_size`).
    """
    if isinstance(source, Image.Image):
        return _decode(source)
    readable = hasattr(source, "read") and not isinstance(source, io.TextIOBase)
    if not readable and not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise TypeError(f"a photo is a path, bytes, a binary file or a PIL image, not {type(source).__name__}")
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return _read_file(file, min_size)
        data = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    except OSError as error:
        raise ImageError(
            f"The file cannot be opened ({error.strerror or error}). Check its path and permissions."
        ) from error
    return _read_file(io.BytesIO(data), min_size)


def read_photo(source: Any, size: int, preview: int | None = None) -> Photo:
    """Reads a photo for the encoder, and makes a small copy of it to show.

    Args:
        source: as for `read_image`, but no array or PIL image.
        size: pixels of each side of the result's `image`.
        preview: pixels of the longer side of the result's `preview` at most; without it there is none.

    Raises:
        ImageError: as for `read_image`.
    """
    photo = open_photo(source, min_size=(size, size))
    image = resize_image(photo, (size, size))
    width, height = photo.info["original_size"]
    return Photo(image, width, height, make_preview(photo, preview) if preview else None)


def make_preview(photo: Image.Image, side: int) -> Preview:
    """Reduces an RGB image, in place, to at most ``side`` pixels on its longer side, and encodes it."""
    photo.thumbnail((side, side))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=85, comment=b"")  # not that of a GIF, which may be too long
    return Preview(file.getvalue(), photo.width, photo.height)


def resize_image(image: np.ndarray | Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image to `size` (height, width), ignoring its proportions, by nearest neighbour as in the data set.

    If the distance between sampled pixels would exceed `MAX_STEP`, the image is first reduced by a whole number, by the
    mean. Enlarging is bilinear.

    Args:
        image: uint8 array of shape (H, W, 3), or what `open_photo` gives.
        size: (height, width) of the result.

    Returns:
        uint8 array of shape (height, width, 3).
    """
    height, width = size
    if isinstance(image, np.ndarray):
        if image.shape[:2] == size:
            return image
        image = Image.fromarray(image)
    image = image.reduce((math.ceil(image.width / width / MAX_STEP), math.ceil(image.height / height / MAX_STEP)))
    smaller = width <= image.width and height <= image.height
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST if smaller else Image.Resampling.BILINEAR))


def _read_file(file: BinaryIO, min_size: tuple[int, int] | None) -> Image.Image:
    start = file.read(1024)
    file.seek(0)
    if not start:
        raise ImageError("The file is empty. Choose another file, or download this one again.")
    try:
        image = Image.open(file, formats=_formats(start))
    except UnidentifiedImageError as error:
        raise _unsupported(start) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except MemoryError as error:
        raise too_much_memory() from error
    except Exception as error:  # a broken header can raise anything
        raise damaged() from error
    with image:
        if isinstance(image, JpegImageFile) and _scans(file) * image.width * image.height > MAX_SCANS * MAX_PIXELS:
            raise ImageError(
                "The picture has too many progressive scans. Save it as an ordinary JPEG and try again.",
                "too large",
            )
        width, height = image.size  # before a JPEG is decoded smaller
        photo = _decode(image, min_size)
        vars(image).pop("_decoder", None)  # of WebP and AVIF; it holds up to three more copies of the picture
        photo.info["original_size"] = (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)
        return photo


def _formats(start: bytes) -> tuple[str, ...]:
    """The formats to try. The HEIC decoder is loaded only for a file that may need it: it takes 50 ms and 20 MB."""
    if start[4:8] != b"ftyp":
        return FORMATS[:-1]
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return FORMATS


def _unsupported(start: bytes) -> ImageError:
    if b"%PDF-" in start:
        return ImageError(
            "This is a PDF document, not a photo. Open it, export the page as PNG or take a screenshot of the picture, "
            "and choose that.",
            "unsupported",
        )
    if b"<svg" in start.lower():
        return ImageError(
            "This is an SVG drawing, not a photo. Open it in a drawing program such as Inkscape, export it as PNG, "
            "and choose the PNG.",
            "unsupported",
        )
    return ImageError(
        "This is not a photo that we can read. Use a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC file.",
        "unsupported",
    )


def _scans(file: BinaryIO) -> int:
    """The number of scans in a JPEG up to its end. Phones append a clip, which may contain the same two bytes."""
    before = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(before)
    position = count = 0
    while (found := MARKER.search(data, position)) and found[0] != b"\xff\xd9":
        count += found[0] == b"\xff\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])  # behind the segment
    return count


def _decode(image: Image.Image, min_size: tuple[int, int] | None = None) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large()
    if width * height == 0:
        raise damaged()
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _has_planes(image.tag_v2):
        if image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1:
            raise _unsupported(b"")
        image.tag_v2[TiffImagePlugin.PLANAR_CONFIGURATION] = 1  # a single plane, for which Pillow takes a wrong mode
        image._setup()
    try:
        if min_size:
            side = 2 * max(min_size)  # of both sides, because the photo may be rotated later
            image.draft(None, (side, side))
        image.load()
        if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            image = image.convert("RGB")  # its fourth byte has no meaning
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # for grey of more than eight bits
            image.info[BITS] = next(iter(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())), 16)
            image.info[WHITE_IS_ZERO] = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        return to_rgb(to_srgb(_upright(image), min_size))
    except MemoryError as error:
        raise too_much_memory() from error
    except Exception as error:  # broken pixel data can raise anything
        raise damaged() from error


def _has_planes(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether a TIFF has planes that Pillow misreads: one, or several of more than eight bits, without compression."""
    bits = next(iter(tags.get(TiffImagePlugin.BITSPERSAMPLE, ())), 8)
    misread = bits > 8 or tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) == 1
    compressed = tags.get(TiffImagePlugin.COMPRESSION, 1) != 1
    return misread and not compressed and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation: a key of `TURNS` where the picture is not upright. From 5 on, width and height change."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data; the photo itself may be good
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    image.info = {key: value for key, value in image.info.items() if key not in WITH_ORIENTATION}
    return image


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        raise ImageError(
            f"An image array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}."
        )
    if colour and array.shape[2] == 3:
        return array
    return np.asarray(to_rgb(Image.fromarray(array)))


def _too_large() -> ImageError:
    return ImageError(
        "The picture has more than 50 million pixels. Save a smaller copy and try again.",  # MAX_PIXELS
        "too large",
    )


def too_much_memory() -> ImageError:
    return ImageError("The picture takes too much memory to open. Save a smaller copy and try again.", "too large")


def too_much_time() -> ImageError:
    return ImageError(
        "The picture takes too long to open. Save a smaller copy or an ordinary JPEG and try again.", "too large"
    )


def damaged() -> ImageError:
    return ImageError("The picture is damaged or incomplete. Save or download it again, then try once more.")
