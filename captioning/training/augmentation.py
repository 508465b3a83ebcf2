"""Random variations of training photos, against overfitting."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def crop(image: np.ndarray, random: np.random.Generator, least: float = 0.7) -> np.ndarray:
    """A mild variation of a photo: uint8 (H, W, 3) → the same shape.

    It is cropped and resized, and half of the time mirrored.

    Args:
        least: the smallest share of the area that is left.
    """
    height, width, _ = image.shape
    w, h = np.sqrt(random.uniform(least, 1.0, 2)) * (width, height)
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    box = (left, top, left + w, top + h)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(picture)


def augment(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A strong variation of a photo: uint8 (H, W, 3) → the same shape.

    It is rotated, cropped to at least 30 % of its area and resized, and changed in brightness, contrast and colour.
    Some are mirrored, grey, blurred or partly covered.
    """
    height, width, _ = image.shape
    mean = tuple(int(value) for value in image.mean((0, 1)))
    rotated = Image.fromarray(image).rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR, fillcolor=mean)
    picture = Image.fromarray(crop(np.asarray(rotated), random, least=0.3))
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
