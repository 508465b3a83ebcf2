"""Draws a small data set with true captions, in the layout of Flickr8k, from which a tiny captioner really learns.

A scene is one big shape on a plain background: 4 colours x 3 shapes x 2 backgrounds, with some freedom of place and
size and a little noise. All 24 kinds come equally often, so that training has seen what validation shows.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (225, 25, 25), "green": (20, 170, 40), "blue": (30, 50, 225), "yellow": (240, 215, 20)}
SHAPES = ("circle", "square", "triangle")
BACKGROUNDS = {"black": (10, 10, 10), "white": (245, 245, 245)}

CAPTIONS = (  # at most seven words, so that training compiles for eight tokens only
    "A {colour} {shape} on {background} .",
    "There is a {colour} {shape} on {background} .",
    "A {colour} {shape} is drawn on {background} .",
    "A big {colour} {shape} on {background} .",
    "This shows a {colour} {shape} on {background} .",
)
GERMAN = (
    "Ein {shape}, {colour}, vor {background} .",
    "Hier ist ein {shape} vor {background}, {colour} .",
)
GERMAN_WORDS = {
    **{"red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb"},
    **{"circle": "Kreis", "square": "Würfel", "triangle": "Kegel", "black": "Schwarz", "white": "Weiß"},
}


def draw_dataset(folder: str | Path, images: int = 240, size: int = 64, seed: int = 0) -> Path:
    """Write `images` scenes of `size` x `size` pixels, five captions each and two in German, split about 80/10/10;
    return the folder.

    The same arguments draw the same data set. `load_dataset(folder)` reads it.
    """
    folder = Path(folder)
    photos, text = folder / "Flicker8k_Dataset", folder / "Flickr8k_text"
    photos.mkdir(parents=True, exist_ok=True)
    text.mkdir(exist_ok=True)

    random = np.random.default_rng(seed)
    kinds = list(product(COLOURS, SHAPES, BACKGROUNDS))
    order = np.concatenate([random.permutation(len(kinds)) for _ in range(images // len(kinds) + 1)])[:images]
    names, lines, german_lines = [], [], []
    for index, kind in enumerate(order):
        colour, shape, background = kinds[kind]
        names.append(f"scene_{index:04d}.jpg")
        draw_scene(colour, shape, background, size, random).save(photos / names[-1], quality=92)
        for number, caption in enumerate(CAPTIONS):
            caption = caption.format(colour=colour, shape=shape, background=background)
            lines.append(f"{names[-1]}#{number}\t{caption}")
        for number, caption in enumerate(GERMAN):
            words = {"colour": colour, "shape": shape, "background": background}
            caption = caption.format(**{name: GERMAN_WORDS[word] for name, word in words.items()})
            german_lines.append(f"{names[-1]}#{number}\t{caption}")

    tenth = images // 10
    splits = {"dev": names[:tenth], "test": names[tenth : 2 * tenth], "train": names[2 * tenth :]}
    _write_lines(text / "Flickr8k.token.txt", lines)
    _write_lines(text / "Flickr8k.de.token.txt", german_lines)
    for split, members in splits.items():
        _write_lines(text / f"Flickr_8k.{split}Images.txt", members)
    return folder


def draw_scene(colour: str, shape: str, background: str, size: int, random: np.random.Generator) -> Image.Image:
    """One scene, an RGB image of `size` x `size` pixels."""
    image = Image.new("RGB", (size, size), BACKGROUNDS[background])
    draw = ImageDraw.Draw(image)
    radius = size * random.uniform(0.32, 0.4)
    x, y = size / 2 + random.uniform(-0.06, 0.06, 2) * size
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    else:
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=COLOURS[colour])
    noisy = np.asarray(image, "float32") + random.normal(0, 6, (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype("uint8"))


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
