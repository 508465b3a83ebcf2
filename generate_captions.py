"""Caption photos from Python or from the command line.

    python generate_captions.py photo.jpg holiday/ --format csv --output captions.csv
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import errno
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TextIO

import keras
import numpy as np
from tqdm import tqdm

from captioning import artifacts
from captioning.artifacts import ArtifactError
from captioning.backend import in_groups, on_each_processor
from captioning.encoder import Encoder
from captioning.images import SUFFIXES, ImageError, open_photo, read_image, resize_image
from captioning.search import TOGETHER, Hypotheses, make_search
from captioning.text import Tokenizer

MAX_BEAM_WIDTH = 10


@dataclass(frozen=True)
class Word:
    """A word of a caption: its probability, and where the decoder looked (rows, columns; sums to 1) or None."""

    text: str
    probability: float
    attention: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Caption:
    """A caption in lower case without full stop.

    ``probability`` is that of all its words and of ending there. ``confidence``, 0 to 1, is how much of the caption
    people can be expected to say too (`captioning.evaluation.agreement`). ``alternatives`` are ranked, this caption
    first; theirs are empty.
    """

    text: str
    probability: float
    confidence: float
    words: list[Word] = field(repr=False)
    alternatives: list[Caption] = field(default_factory=list, repr=False)


class CaptionGenerator:
    """Encoder, decoder and beam search in one object. Make one with `load`. Several threads may use it.

    >>> generator = CaptionGenerator.load("artifacts")
    >>> generator.caption("photo.jpg").text
    'a dog is running through the grass'
    """

    def __init__(self, encoder: Encoder, decoder: keras.Model, tokenizer: Tokenizer, config: dict):
        self.encoder, self.decoder, self.tokenizer, self.config = encoder, decoder, tokenizer, config
        self._search = make_search(decoder, tokenizer, config["max_length"], config["length_power"], frozen=True)

    @classmethod
    def load(cls, folder: str | Path = "artifacts") -> CaptionGenerator:
        """Load a trained model, checking every file first.

        Raises:
            ArtifactError: a file is missing, cut, foreign or does not fit the others; the message names it.
        """
        encoder, decoder, tokenizer, config = artifacts.load(folder)
        return cls(encoder, decoder, tokenizer, config)

    def caption(self, photo, beam_width: int = 3, alternatives: int = 1) -> Caption:
        """Caption one photo.

        Args:
            photo: path, bytes, binary file, PIL image or uint8 array (H, W, 3).
            beam_width: how many sentences are followed side by side, 1 to 10; 1 is greedy search.
            alternatives: how many captions to return, up to the beam width if that is greater.

        Raises:
            ImageError: the photo cannot be read.
            ValueError: beam width or alternatives out of range.
        """
        return self.caption_batch([photo], beam_width, alternatives)[0]

    def caption_batch(self, photos: Sequence, beam_width: int = 3, alternatives: int = 1) -> list[Caption]:
        """Caption several photos; each processor takes a few at a time. Arguments as for `caption`."""

        def caption(few):
            return self.search(self.encoder.encode(np.stack([self.prepare(photo) for photo in few])), beam_width, alternatives)

        return [*chain.from_iterable(on_each_processor(caption, in_groups(photos, TOGETHER)))]

    def prepare(self, photo) -> np.ndarray:
        """A photo as the encoder wants it: uint8 (H, W, 3) of the encoder's size."""
        size = (self.encoder.image_size, self.encoder.image_size)
        image = read_image(photo) if isinstance(photo, np.ndarray) else open_photo(photo, min_size=size)
        return resize_image(image, size)

    def search(self, features, beam_width: int = 3, alternatives: int = 1) -> list[Caption]:
        """Captions for features (B, R, D)."""
        if not 1 <= alternatives <= MAX_BEAM_WIDTH or not 1 <= beam_width <= MAX_BEAM_WIDTH:
            raise ValueError(f"beam width and alternatives must be between 1 and {MAX_BEAM_WIDTH}")
        found = self._search(features, max(beam_width, alternatives))
        results = []
        for b in range(len(features)):
            ranked = [self._caption(found, b, k) for k in range(alternatives)]
            results.append(dataclasses.replace(ranked[0], alternatives=ranked))
        return results

    def _caption(self, found: Hypotheses, b: int, k: int) -> Caption:
        tokens, log_probabilities, maps = found.tokens[b, k], found.log_probabilities[b, k], found.attention[b, k]
        texts = self.tokenizer.words(tokens)
        words = [
            Word(text, float(np.exp(log_p)), look.reshape(self.encoder.grid) if look.size else None)
            for text, log_p, look in zip(texts, log_probabilities, maps)
        ]
        mean = np.exp(log_probabilities.sum() / np.count_nonzero(tokens != self.tokenizer.pad))
        slope, offset = self.config.get("confidence", (1.0, 0.0))
        confidence = float(np.clip(slope * mean + offset, 0.0, 1.0))
        return Caption(" ".join(texts), float(np.exp(log_probabilities.sum())), confidence, words)


def find_photos(arguments: Iterable[str]) -> list[Path]:
    """Photos named on the command line; folders are searched, in the order of their names."""
    photos = []
    for path in map(Path, arguments):
        if path.is_dir():
            photos += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            photos.append(path)
    return photos


def caption_files(generator: CaptionGenerator, photos: Sequence[Path], beam_width: int,
                  alternatives: int) -> Iterator[tuple[Path, Caption | None, str | None]]:
    """Yield (path, caption, None), or (path, None, why) for a photo that cannot be read."""

    def caption(few):
        images, errors = {}, {}
        for photo in few:
            try:
                images[photo] = generator.prepare(photo)
            except (ImageError, OSError) as error:
                errors[photo] = str(error)
        captions = dict(zip(images, generator.caption_batch([*images.values()], beam_width, alternatives)))
        return [(photo, captions.get(photo), errors.get(photo)) for photo in few]

    return chain.from_iterable(on_each_processor(caption, in_groups(photos, TOGETHER)))


def write_captions(results: Iterable[tuple[Path, Caption | None, str | None]], kind: str, output: TextIO) -> None:
    """Write results as text, json, csv or COCO results; photos without caption are left to json's ``error``."""
    if kind == "text":
        for path, caption, _ in results:
            if caption:
                print(path, caption.text, sep="\t", file=output, flush=True)
    elif kind == "csv":
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["image", "caption", "probability"])
        for path, caption, _ in results:
            if caption:
                writer.writerow([path, caption.text, f"{caption.probability:.6g}"])
    else:
        rows = []
        for path, caption, error in results:
            if kind == "coco":
                if caption:
                    rows.append({"image_id": path.stem, "caption": caption.text})
            elif caption:
                alternatives = [{"caption": a.text, "probability": a.probability} for a in caption.alternatives]
                rows.append({"image": str(path), "caption": caption.text, "probability": caption.probability,
                             "alternatives": alternatives})
            else:
                rows.append({"image": str(path), "error": error})
        json.dump(rows, output, indent=2, ensure_ascii=False)
        output.write("\n")


def check_writable(path: Path) -> None:
    """Raise the OSError before the work that `write_output` would raise after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.is_file() or not path.exists():
        tempfile.TemporaryFile(dir=path.resolve().parent).close()


def write_output(path: Path, data: bytes) -> None:
    """Write a file in one step, also through a link; what is no file, such as /dev/stdout, as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        artifacts.write_bytes(path.resolve(), data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all captioned, 1 some failed, 2 wrong usage or artifacts."""
    parser = argparse.ArgumentParser(description="Caption photos.")
    parser.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER")
    width = {"type": int, "choices": range(1, MAX_BEAM_WIDTH + 1), "metavar": f"1-{MAX_BEAM_WIDTH}"}
    parser.add_argument("--beam-width", default=3, help="sentences followed side by side (default: 3)", **width)
    parser.add_argument("--alternatives", default=1, help="captions a photo, in json (default: 1)", **width)
    parser.add_argument("--format", choices=["text", "json", "csv", "coco"], default="text")
    parser.add_argument("--output", type=Path, help="a file instead of standard output")
    options = parser.parse_args(arguments)
    photos = find_photos(options.photos)
    if not photos:
        parser.error("no photos found in " + ", ".join(options.photos))
    if options.output:
        try:
            check_writable(options.output)
        except OSError as error:
            print(f"error: cannot write {options.output}: {error.strerror}", file=sys.stderr)
            return 2
    try:
        generator = CaptionGenerator.load(os.environ.get("ARTIFACTS_DIR", Path(__file__).parent / "artifacts"))
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0

    def watched():
        nonlocal failed
        results = caption_files(generator, photos, options.beam_width, options.alternatives)
        for result in tqdm(results, total=len(photos), unit="photo", file=sys.stderr):
            if result[2]:
                failed += 1
                tqdm.write(f"error: {result[0]}: {result[2]}", file=sys.stderr)
            yield result

    text = io.StringIO()
    write_captions(watched(), options.format, text if options.output else sys.stdout)
    if options.output:
        try:
            write_output(options.output, text.getvalue().encode())
        except OSError as error:
            print(f"error: cannot write {options.output}: {error.strerror}", file=sys.stderr)
            return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
