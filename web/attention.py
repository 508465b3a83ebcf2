"""The attention strip: a photo, then for each word of its caption the photo with the attention of that word."""

import io
import math
from collections.abc import Sequence

import numpy as np
from font_roboto import Roboto
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 5
GAP = 16  # pixels between panels
TEXT_HEIGHT = 36  # pixels below a panel
DARKEST = 0.3  # brightness where there is no attention


def draw_attention(photo: np.ndarray, words: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """A PNG picture.

    Args:
        photo: uint8 (height, width, 3).
        words: each word of the caption with its attention (rows, columns) float.
    """
    height, width = photo.shape[:2]
    panels = [("", photo)] + [(word, _spotlight(photo, attention)) for word, attention in words]
    columns = min(COLUMNS, len(panels))
    size = columns * (width + GAP) + GAP, math.ceil(len(panels) / columns) * (height + TEXT_HEIGHT + GAP) + GAP
    strip = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(strip)
    font = ImageFont.truetype(Roboto, TEXT_HEIGHT * 0.6)  # Pillow's own font has no accents
    for number, (word, panel) in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + TEXT_HEIGHT + GAP)
        strip.paste(Image.fromarray(panel), (left, top))
        draw.text((left + width / 2, top + height + TEXT_HEIGHT / 2), word, "black", font, anchor="mm")
    file = io.BytesIO()
    strip.save(file, "PNG")
    return file.getvalue()


def _spotlight(photo: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The photo, brightest where the attention is greatest."""
    height, width = photo.shape[:2]
    grid = Image.fromarray(np.float32(attention / max(attention.max(), 1e-6)))
    light = np.asarray(grid.resize((width, height), Image.Resampling.BILINEAR))
    return (photo * (DARKEST + (1 - DARKEST) * light)[..., None]).astype(np.uint8)
