"""The layouts of data sets. Each reader returns what the files of its layout contain. `captioning.training.datasets`
decides what is usable."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

SPLITS = ("train", "validation", "test")

LAYOUTS = """\
- Flickr8k as distributed: photos in Flicker8k_Dataset/; Flickr8k.token.txt, Flickr_8k.trainImages.txt,
  Flickr_8k.devImages.txt and Flickr_8k.testImages.txt in Flickr8k_text/ or in the folder itself
- Flickr8k from Kaggle, and your own data: photos in Images/; captions.txt or captions.csv (image,caption)
- Flickr30k from Kaggle: photos in flickr30k_images/; results.csv (image_name| comment_number| comment)
- COCO: photos in train2014/, val2014/, train2017/, val2017/, also under images/; annotations/captions_*.json
- Karpathy's splits of any of them: dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json
- Multi30k: photos in flickr30k_images/; train.en, val.en, … and train.txt, val.txt, … (names of the photos) in the
  folder itself, or in raw/ and image_splits/ of data/task1/ and data/task2/, also packed (.gz)
More languages, beside any of them: Flickr8k.de.token.txt, captions.de.txt or captions.de.csv (image,caption), or
Multi30k's train.de"""


_MULTI30K_FOLDERS = tuple(f"data/task{task}/{kind}" for task in (2, 1) for kind in ("raw", "image_splits"))
_TEXT_FOLDERS = (  # that may hold the caption files
    *("", "Flickr8k_text", "flickr30k_images", "annotations", "multilingual"),
    *_MULTI30K_FOLDERS,
)
_FLICKR8K_SPLIT_FILES = dict(
    zip(SPLITS, (f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test")), strict=True)
)
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


class Caption(NamedTuple):
    image: str
    number: object  # distinguishes captions of one image; None if the layout has no numbers
    text: object  # a str, unless the file is malformed
    where: str  # for people: file and line


class Source(NamedTuple):
    name: str
    captions: list[Caption]
    splits: dict[str, list[str]] | None  # None: the layout has no splits
    folders: Mapping[str, str] = MappingProxyType({})  # image → name of its folder, if the layout defines it


def _read_karpathy(folder: Path, path: Path, problems: Problems) -> Source:
    content = _read_json(path, ("images",), problems)
    captions: list[Caption] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    folders: dict[str, str] = {}
    for index, entry in enumerate(content["images"]):
        where = f"{path.name} image {index}"
        try:
            image, split = entry["filename"].strip(), splits[_KARPATHY_SPLITS[entry["split"]]]
            sentences = [(sentence.get("sentid"), sentence["raw"]) for sentence in entry["sentences"]]
        except (KeyError, TypeError, AttributeError):
            problems.add("malformed entry skipped", where)
            continue
        split.append(image)
        folders[image] = entry.get("filepath")
        captions += [Caption(image, number, raw, where) for number, raw in sentences]
    name = content.get("dataset")
    return Source(name if isinstance(name, str) else path.stem.removeprefix("dataset_"), captions, splits, folders)


def _parse_flickr8k(line: str) -> tuple:
    key, text = line.split("\t", 1)
    image, number = key.rsplit("#", 1)
    return image, int(number), text


def _read_flickr8k(folder: Path, path: Path, problems: Problems) -> Source:
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, name in _FLICKR8K_SPLIT_FILES.items():
        if found := find_files(folder, name):
            splits[split] = [line.strip() for _, line in _lines(found[0], problems)]
        else:
            problems.add("split file missing, so the split is empty", f"{name} for {split}")
    return Source("flickr8k", _parse_lines(path, _parse_flickr8k, problems), splits)


def _read_kaggle_flickr8k(folder: Path, path: Path, problems: Problems) -> Source:
    def parse(line: str) -> tuple:  # single lines, so that an unclosed quote cannot affect the next ones
        image, text = next(csv.reader([line], strict=True))
        return image, None, text

    expected = " (it must be image,caption, with double quotes around a caption that contains a comma)"
    captions = _parse_lines(path, parse, problems, header="image", expected=expected)
    return Source(Path(os.path.abspath(folder)).name, captions, None)


def _read_kaggle_flickr30k(folder: Path, path: Path, problems: Problems) -> Source:
    def parse(line: str) -> tuple:  # fails, as distributed, on 2199200615.jpg| 4   A dog runs across the grass .
        image, number, text = line.split("|", 2)
        return image, number.strip(), text

    return Source("flickr30k", _parse_lines(path, parse, problems, header="image_name"), None)


def _read_coco(folder: Path, path: Path, problems: Problems) -> Source:
    captions: list[Caption] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    folders: dict[str, str] = {}
    for file in sorted(path.parent.glob("captions_*.json")):
        photo_folder = file.stem.removeprefix("captions_")  # train2014, val2017 …
        split = {"tra": "train", "val": "validation"}.get(photo_folder[:3])
        if split is None:
            problems.add("annotation file of no known split skipped", file.name)
            continue
        content = _read_json(file, ("images", "annotations"), problems)
        names, skipped = {}, set()  # id → image name; ids of images whose name another one has
        taken = set[str]()
        for index, entry in enumerate(content["images"]):
            try:
                name = PurePosixPath(entry["file_name"]).name.strip()
                if name in taken:
                    problems.add("two images of one name, the second skipped", f"{file.name} image {index}")
                    skipped.add(entry["id"])
                else:
                    names[entry["id"]] = name
                    taken.add(name)
            except (KeyError, TypeError):
                problems.add("malformed entry skipped", f"{file.name} image {index}")
        for image in sorted(folders.keys() & names.values()):
            problems.add("image in two split files, the first kept", image)
        for index, entry in enumerate(content["annotations"]):
            where = f"{file.name} annotation {index}"
            try:
                if entry["image_id"] in skipped - names.keys():
                    continue
                image = names[entry["image_id"]]
                caption = Caption(image, entry.get("id"), entry["caption"], where)
            except (KeyError, TypeError):
                problems.add("malformed entry skipped", where)
                continue
            if image not in folders:
                captions.append(caption)
        images = [image for image in names.values() if image not in folders]
        splits[split] += images
        folders.update(dict.fromkeys(images, photo_folder))
    return Source("coco", captions, splits, folders)


def _read_multi30k(folder: Path, path: Path, problems: Problems, language: str = "en") -> Source:
    captions: list[Caption] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, stem in (("train", "train"), ("validation", "val"), ("test", "test_2016_flickr"), ("test", "test_2016")):
        for kind in ("[1-5].", ""):  # five captions per photo, written for it, are better than one
            packed = find_files(folder, f"{stem}.{kind}{language}.gz")
            plain = find_files(folder, f"{stem}.{kind}{language}")
            files = list({file.name.removesuffix(".gz"): file for file in packed + plain}.values())  # each once
            names = find_files(folder, f"{stem}_images.txt") if kind else find_files(folder, f"{stem}.txt")
            if not files or not names or splits[split]:
                continue
            images = [line.strip() for _, line in _lines(names[0], problems)]
            splits[split] = images
            for number, file in enumerate(files):
                lines = _read_text(file, problems).rstrip("\n").split("\n")
                if len(lines) != len(images):
                    problems.add("file skipped: it has not one line per photo", file.name)
                    continue
                captions += [
                    Caption(image, number, text, f"{file.name} line {n}")
                    for n, (image, text) in enumerate(zip(images, lines, strict=True), start=1)
                ]
    return Source("multi30k", captions, splits)


def read_translations(folder: Path, language: str, problems: Problems) -> list[Caption]:
    """The captions of a data set in another language, from the files beside its own."""
    if found := find_files(folder, f"Flickr8k.{language}.token.txt"):
        return _parse_lines(found[0], _parse_flickr8k, problems)
    for suffix in ("txt", "csv"):
        if found := find_files(folder, f"captions.{language}.{suffix}"):
            return _read_kaggle_flickr8k(folder, found[0], problems).captions
    return _read_multi30k(folder, folder, problems, language).captions


READERS = {  # a file that identifies the layout → its reader; the first one with usable images is taken
    "dataset_flickr8k.json": _read_karpathy,
    "dataset_flickr30k.json": _read_karpathy,
    "dataset_coco.json": _read_karpathy,
    "Flickr8k.token.txt": _read_flickr8k,
    "captions_*.json": _read_coco,
    "captions.txt": _read_kaggle_flickr8k,
    "captions.csv": _read_kaggle_flickr8k,
    "train.*en*": _read_multi30k,
    "results.csv": _read_kaggle_flickr30k,
}


class Problems:
    """Collects what went wrong: kind of problem → where, each place once."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, None]] = {}

    def add(self, kind: str, place: str) -> None:
        self._places.setdefault(kind, {})[place] = None

    def lines(self) -> tuple[str, ...]:
        return tuple(
            f"{kind}: {len(places)} ({', '.join(list(places)[:3])}{', …' if len(places) > 3 else ''})"
            for kind, places in self._places.items()
        )


def find_files(folder: Path, pattern: str) -> list[Path]:
    return [path for name in _TEXT_FOLDERS for path in sorted((folder / name).glob(pattern)) if path.is_file()]


def _read_text(path: Path, problems: Problems) -> str:
    """The file's text, without a BOM and with "\\n" line ends; bytes that are not UTF-8 become U+FFFD."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        problems.add("file cannot be read", f"{path.name}: {getattr(error, 'strerror', None) or error}")
        return ""
    if text.startswith("\ufeff"):
        problems.add("byte order mark (BOM) removed", path.name)
        text = text[1:]
    if "\r" in text:
        problems.add("Windows line ends (CRLF) removed", path.name)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _lines(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """(where, line) for each line that is not blank."""
    for number, line in enumerate(_read_text(path, problems).split("\n"), start=1):
        if line.strip():
            yield f"{path.name} line {number}", line


def _parse_lines(
    path: Path, parse: Callable, problems: Problems, header: str | None = None, expected: str = ""
) -> list[Caption]:
    """The captions that `parse(line) -> (image, number, text)` finds, but for the line whose image is `header`."""
    captions = []
    for where, line in _lines(path, problems):
        try:
            image, number, text = parse(line)
        except (ValueError, csv.Error):
            problems.add("malformed line skipped" + expected, where)
            continue
        if image.strip() != header:
            captions.append(Caption(image.strip(), number, text, where))
    return captions


def _read_json(path: Path, keys: tuple[str, ...], problems: Problems) -> dict:
    """The object in the file, with a list under each of `keys`."""
    try:
        content = json.loads(_read_text(path, problems))
    except (ValueError, RecursionError) as error:
        problems.add("not a readable JSON file", f"{path.name}: {error}")
        content = {}
    content = content if isinstance(content, dict) else {}
    for key in keys:
        if not isinstance(content.get(key), list):
            problems.add("malformed file", f'{path.name} has no list "{key}"')
            content[key] = []
    return content
