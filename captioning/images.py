"""From any photo to an upright RGB array, or a clear `ImageError`.

```python
image = read_image("holiday.jpg")          # uint8 (H, W, 3)
small = resize_image(image, (224, 224))    # what an encoder eats
```
"""

import io
import math
import os

import numpy as np
from PIL import ExifTags, Image, ImageEnhance, ImageFilter, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The only formats that are tried, whatever the file's name; no other Pillow plugin runs."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
"""Of files that are taken for photos where a folder is searched."""

MAX_PIXELS = 50_000_000
"""Larger pictures are refused as soon as their header is read, before any pixel is decoded."""

MAX_SCANS = 15
"""Passes in which a JPEG of `MAX_PIXELS` may be stored, and a smaller one in more. Ten are usual; thousands are there
to keep a server busy."""

MAX_STEP = 2.25
"""From pixel to pixel, when a photo is made smaller: Flickr's photos have 500 on their longer side, the encoder 224."""


class ImageError(ValueError):
    """A photo that cannot be read. The message tells its owner what is wrong and what to do.

    Its `kind` is "unsupported", "too large" or "damaged".
    """

    def __init__(self, message: str, kind: str = "damaged"):
        super().__init__(message)
        self.kind = kind


def read_image(source, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a photo as an upright RGB array.

    The first frame counts, transparency becomes white, and the orientation that a camera
    noted (EXIF) is applied.

    Args:
        source: path, bytes, binary file, PIL image, or uint8 array of shape
            (H, W), (H, W, 3) or (H, W, 4).
        min_size: (height, width) that the caller will resize to. A large JPEG is then decoded
            at a half, a quarter or an eighth, which is several times faster, as long as each
            side stays at least twice as long as asked for.

    Returns:
        uint8 array of shape (H, W, 3).

    Raises:
        ImageError: not a photo, cut off, empty or larger than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    return np.asarray(open_photo(source, min_size))


def open_photo(source, min_size: tuple[int, int] | None = None) -> Image.Image:
    """`read_image` for Pillow: the same photo as an upright RGB image. An array is for `read_image` only."""
    if isinstance(source, Image.Image):
        return _decode(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return _read_file(file, min_size)
        data = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    except OSError as error:
        raise ImageError(
            f"The file cannot be opened ({error.strerror or error}). Check its path and rights."
        ) from error
    return _read_file(io.BytesIO(data), min_size)


def resize_image(image: np.ndarray | Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Squashes an image to `size` (height, width), whatever its proportions, as the data sets' photos were: of pixels at
    regular distances one is taken, the others are left out. Where those distances would exceed `MAX_STEP`, the image is
    first reduced by a whole number, by the mean.

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


def distort(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A training photo made hard to recognise: tilted, cropped to at least 30 %, squeezed back to size, mirrored half of the
    time, in other light and colours, at times blurred, or partly hidden.

    Of the photo itself, and of mild crops of it, a trained model knows the captions by heart; of this it must look.
    """
    height, width, _ = image.shape
    mean = tuple(int(value) for value in image.mean((0, 1)))
    picture = Image.fromarray(image).rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR, fillcolor=mean)
    w, h = np.sqrt(random.uniform(0.3, 1.0, 2)) * (width, height)
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(random.uniform(0.6, 1.4))
    if random.random() < 0.1:
        picture = ImageOps.grayscale(picture).convert("RGB")
    if random.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2) * width / 224))
    result = np.array(picture)
    if random.random() < 0.3:
        h, w = (np.sqrt(random.uniform(0.05, 0.25, 2)) * (height, width)).astype(int)
        top, left = random.integers(0, height - h), random.integers(0, width - w)
        result[top : top + h, left : left + w] = random.integers(0, 256, 3)
    return result


def _read_file(file, min_size) -> Image.Image:
    if not file.read(1):
        raise ImageError("The file is empty. Choose it again, or save it again where it came from.")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            "This is not a photo that we can read. Use a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file; "
            "export other kinds, such as HEIC or SVG, as JPEG first.",
            "unsupported",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:  # Pillow's readers raise whatever a broken header makes them stumble over
        raise _damaged() from error
    with image:
        if isinstance(image, JpegImageFile) and _scans(file) * image.width * image.height > MAX_SCANS * MAX_PIXELS:
            raise ImageError(
                "The picture is stored in too many passes. Save it again as an ordinary JPEG and try once more.",
                "too large",
            )
        return _decode(image, min_size)


def _scans(file) -> int:
    """How many passes a JPEG takes, counted by their marker, which cannot occur within one."""
    position = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")
    file.seek(position)
    return count


def _decode(image: Image.Image, min_size=None) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large()
    if width * height == 0:
        raise _damaged()
    try:
        if min_size:
            side = 2 * max(min_size)  # of both sides: the photo may be turned upright later
            image.draft(None, (side, side))
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # as above: broken pixel data raises anything
        raise _damaged() from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a garbled note of the camera; the photo itself is good
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")  # large photos are not copied for nothing


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its full range; of 32 bits or floating point by its own brightest value."""
    values = np.nan_to_num(np.asarray(image, np.float32))
    brightest = 65535 if image.mode.startswith("I;16") else values.max()
    return Image.fromarray(np.uint8(np.clip(values / max(brightest, 1e-12), 0, 1) * 255 + 0.5))


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        raise ImageError(
            f"An image array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}."
        )
    if colour and array.shape[2] == 3:
        return array
    return np.asarray(_to_rgb(Image.fromarray(array)))


def _too_large() -> ImageError:
    return ImageError(
        "The picture has more than 50 million pixels. Save it smaller and try again.",  # MAX_PIXELS
        "too large",
    )


def _damaged() -> ImageError:
    return ImageError("The picture is damaged or not complete. Save or download it again, and try once more.")
