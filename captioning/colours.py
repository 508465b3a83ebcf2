"""Converts pictures of any mode and colour profile to eight bits of red, green and blue in sRGB."""

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

BITS, WHITE_IS_ZERO = (258, 0), (262, 0)  # numbers of TIFF tags, as keys of `info`, where those from files are strings
LINEAR = re.compile(b"linear|-g10", re.IGNORECASE)  # in the names of profiles of sRGB's primaries without its curve


def to_srgb(image: Image.Image, min_size: tuple[int, int] | None = None) -> Image.Image:
    """Converts colours that have an ICC profile, such as the Display P3 of iPhones, to sRGB.

    That takes 0.4 s for 12 million pixels, so a large picture is first reduced, as a JPEG is (see `read_image`).
    """
    data = image.info.get("icc_profile")
    name = (data or b"").replace(b"\0", b"")
    is_srgb = b"sRGB" in name and not LINEAR.search(name)
    if not data or is_srgb or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    if min_size and (factor := min(image.size) // (2 * max(min_size))) > 1:
        image = image.reduce(factor)
    try:
        profile, mode = io.BytesIO(data), "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile; the photo itself may be good
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB. Transparent areas become white; grey of more than eight bits is scaled."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        image = _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # avoids a copy of a large photo


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cuts an image into strips of about a million pixels at most, each with the number of its first row.

    A large photo in a wider pixel format would take hundreds of megabytes at once.
    """
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")  # Pillow lacks La to RGBA
        result.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return result


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey by its full range, and 32-bit or floating point grey by its brightest value.

    Of a TIFF file, `info` holds the `BITS` of the file, and whether `WHITE_IS_ZERO`.
    """

    def values(strip: Image.Image) -> np.ndarray:
        return np.nan_to_num(np.asarray(strip, np.float32))

    whole_range = image.mode.startswith("I;16")
    highest = 2 ** image.info.get(BITS, 16) - 1
    brightest = highest if whole_range else max(values(strip).max() for _, strip in _strips(image))
    result = Image.new("L", image.size)
    for top, strip in _strips(image):
        grey = np.uint8(np.clip(values(strip) / max(brightest, 1e-12), 0, 1) * 255 + 0.5)
        result.paste(Image.fromarray(255 - grey if image.info.get(WHITE_IS_ZERO) else grey), (0, top))
    return result
