"""Reads a folder of photos and their captions, in any of the usual layouts, into one `Dataset`.

    dataset = load_dataset("data/flickr8k")
    print(dataset.summary())
    dataset.captions["train"]["1000268201_693b08cb0e.jpg"]   # its captions, as their authors wrote them

Data sets: Flickr8k (Hodosh, Young and Hockenmaier, 2013, JAIR 47: 853-899), Flickr30k (Young et al., 2014,
TACL 2: 67-78), COCO captions (Chen et al., 2015, arXiv:1504.00325); splits of Karpathy and Fei-Fei (CVPR 2015).
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from captioning.images import SUFFIXES

SPLITS = ("train", "validation", "test")

LAYOUTS = """\
- Flickr8k as distributed: photos in Flicker8k_Dataset/; Flickr8k.token.txt, Flickr_8k.trainImages.txt,
  Flickr_8k.devImages.txt and Flickr_8k.testImages.txt in Flickr8k_text/ or beside it
- Flickr8k from Kaggle: photos in Images/; captions.txt (image,caption)
- Flickr30k from Kaggle: photos in flickr30k_images/; results.csv (image_name| comment_number| comment)
- COCO: photos in train2014/, val2014/, train2017/, val2017/, also under images/; annotations/captions_*.json
- Karpathy's splits of any of them: dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json"""

HOW_TO_GET_FLICKR8K = """\
To get Flickr8k (for research; Hodosh, Young and Hockenmaier, 2013): unpack Flickr8k_Dataset.zip and
Flickr8k_text.zip into this folder, or the Kaggle data set adityajn105/flickr8k."""

_TEXT_FOLDERS = ("", "Flickr8k_text", "flickr30k_images", "annotations")  # where caption files are looked for
_PHOTO_FOLDER_DEPTH = 3  # Kaggle packs Flickr30k's photos in flickr30k_images/flickr30k_images/flickr30k_images/
_FLICKR8K_SPLIT_FILES = dict(zip(SPLITS, (f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test"))))
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
_LOST_CHARACTER = re.compile(r"[\ufffd\ud800-\udfff]")  # what is left of bytes that are not UTF-8
_COCO_YEAR = re.compile(r"^COCO_[a-z]+\d{4}_(?=\d{12}\.)")  # COCO_val2014_000000000139.jpg is 000000000139.jpg


class DatasetError(ValueError):
    """The folder holds no data set that can be used; the message says what was looked for and found."""


@dataclass(frozen=True)
class Dataset:
    """Photos with their captions, split for training, validation and test.

    Attributes:
        name: "flickr8k", "flickr30k", "coco", or the name in Karpathy's file.
        image_paths: image name → file, for every image of every split.
        captions: split → image name → captions. All three `SPLITS` are there, perhaps empty.
        problems: what was skipped or repaired and why, one line a kind, with its count and first examples.
    """

    name: str
    image_paths: dict[str, Path]
    captions: dict[str, dict[str, list[str]]]
    problems: tuple[str, ...]

    def summary(self) -> str:
        """Images and captions of each split, and the problems, in a few lines for people."""
        lines = [f"{self.name}: {len(self.image_paths)} images"]
        for split in SPLITS:
            images = self.captions[split]
            count = sum(map(len, images.values()))
            lines.append(f"  {split:<10} " + (f"{len(images):>6} images, {count} captions" if images else "empty"))
        lines += ["problems:", *(f"  - {line}" for line in self.problems)] if self.problems else ["no problems"]
        return "\n".join(lines)


def load_dataset(folder: str | Path, seed: int = 0) -> Dataset:
    """Read the data set in `folder`, whichever known layout it has; a Karpathy file, if there, decides the splits.

    Data sets that come without splits are split 80/10/10 by image, the same way for the same `seed`.
    Dirt (missing image, empty caption, duplicate line, stray extension, undecodable bytes, malformed line)
    is skipped and told in `Dataset.problems`. Captions stay as written, without the white space around them.

    Raises:
        DatasetError: no known layout, or not one image that is there, has a caption and belongs to a split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise _no_dataset(f"{folder} is not a folder.")
    photos = None
    passed_over, reasons = [], []
    for pattern, read in _READERS.items():
        if not (found := _find(folder, pattern)):
            continue
        photos = _list_photos(folder) if photos is None else photos
        problems = _Problems()
        source = read(folder, found[0], problems)
        captions = _usable_captions(source.captions, problems)
        image_paths = _locate(captions, source.folders, photos, problems)
        splits = source.splits or _draw_splits(image_paths, seed)
        images = _assign(splits, captions, image_paths, problems)
        if any(images.values()):
            return Dataset(
                name=source.name,
                image_paths={image: image_paths[image] for split in SPLITS for image in images[split]},
                captions={split: {image: captions[image] for image in images[split]} for split in SPLITS},
                problems=(*passed_over, *problems.lines()),
            )
        passed_over.append(f"{found[0].name} passed over: no usable image")
        reasons += [f"{found[0].name} gives no usable image:", *(f"- {line}" for line in problems.lines())]
    raise _no_dataset(f"No usable data set in {folder}.", *reasons)


def _no_dataset(*reasons: str) -> DatasetError:
    return DatasetError("\n".join([*reasons, "Layouts looked for:", LAYOUTS, HOW_TO_GET_FLICKR8K]))


# The layouts. Each reader returns what its files say; what of it can be used is decided further down.


class _Caption(NamedTuple):
    image: str
    number: object  # what tells two captions of one image apart, None if the layout has no such thing
    text: str
    where: str  # for people: file and line


class _Source(NamedTuple):
    name: str
    captions: list[_Caption]
    splits: dict[str, list[str]] | None  # None: the layout has no splits
    folders: dict[str, str] = {}  # image → name of its folder, where the layout tells


def _read_karpathy(folder: Path, path: Path, problems: _Problems) -> _Source:
    content = _read_json(path, ("images",), problems)
    captions, splits, folders = [], {split: [] for split in SPLITS}, {}
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
        captions += [_Caption(image, number, raw, where) for number, raw in sentences]
    name = content.get("dataset")
    return _Source(name if isinstance(name, str) else path.stem.removeprefix("dataset_"), captions, splits, folders)


def _read_flickr8k(folder: Path, path: Path, problems: _Problems) -> _Source:
    def parse(line: str) -> tuple:
        key, text = line.split("\t", 1)
        image, number = key.rsplit("#", 1)
        return image, int(number), text

    splits = {split: [] for split in SPLITS}
    for split, name in _FLICKR8K_SPLIT_FILES.items():
        if found := _find(folder, name):
            splits[split] = [line.strip() for _, line in _lines(found[0], problems)]
        else:
            problems.add("split file missing, so the split is empty", f"{name} for {split}")
    return _Source("flickr8k", _parse_lines(path, parse, problems), splits)


def _read_kaggle_flickr8k(folder: Path, path: Path, problems: _Problems) -> _Source:
    def parse(line: str) -> tuple:  # a line at a time, so that a quote left open cannot swallow the lines after it
        image, text = next(csv.reader([line], strict=True))
        return image, None, text

    return _Source("flickr8k", _parse_lines(path, parse, problems, header="image"), None)


def _read_kaggle_flickr30k(folder: Path, path: Path, problems: _Problems) -> _Source:
    def parse(line: str) -> tuple:  # fails, as distributed, on 2199200615.jpg| 4   A dog runs across the grass .
        image, number, text = line.split("|", 2)
        return image, number.strip(), text

    return _Source("flickr30k", _parse_lines(path, parse, problems, header="image_name"), None)


def _read_coco(folder: Path, path: Path, problems: _Problems) -> _Source:
    captions, splits, folders = [], {split: [] for split in SPLITS}, {}
    for path in sorted(path.parent.glob("captions_*.json")):
        photo_folder = path.stem.removeprefix("captions_")  # train2014, val2017 …
        split = {"tra": "train", "val": "validation"}.get(photo_folder[:3])
        if split is None:
            problems.add("annotation file of no known split skipped", path.name)
            continue
        content = _read_json(path, ("images", "annotations"), problems)
        names = {}  # id → image name
        for index, entry in enumerate(content["images"]):
            try:
                names[entry["id"]] = PurePosixPath(entry["file_name"]).name.strip()
            except (KeyError, TypeError):
                problems.add("malformed entry skipped", f"{path.name} image {index}")
        for image in sorted(folders.keys() & names.values()):
            problems.add("image in two split files, the first kept", image)
        for index, entry in enumerate(content["annotations"]):
            where = f"{path.name} annotation {index}"
            try:
                image = names[entry["image_id"]]
                caption = _Caption(image, entry.get("id"), entry["caption"], where)
            except (KeyError, TypeError):
                problems.add("malformed entry skipped", where)
                continue
            if image not in folders:
                captions.append(caption)
        images = [image for image in names.values() if image not in folders]
        splits[split] += images
        folders.update(dict.fromkeys(images, photo_folder))
    return _Source("coco", captions, splits, folders)


_READERS = {  # a file that tells the layout → its reader; the first that gives usable images decides
    "dataset_flickr8k.json": _read_karpathy,
    "dataset_flickr30k.json": _read_karpathy,
    "dataset_coco.json": _read_karpathy,
    "Flickr8k.token.txt": _read_flickr8k,
    "captions_*.json": _read_coco,
    "captions.txt": _read_kaggle_flickr8k,
    "results.csv": _read_kaggle_flickr30k,
}


# What of it can be used.


def _usable_captions(captions: list[_Caption], problems: _Problems) -> dict[str, list[str]]:
    """The captions of each image, stripped, without the dirty ones."""
    usable, seen = {}, set()
    for image, number, text, where in captions:
        if not isinstance(text, str):
            problems.add("malformed caption skipped", where)
            continue
        text = text.strip()
        line = (image, str(number), text)
        if _LOST_CHARACTER.search(image + text):
            problems.add("undecodable bytes, line skipped", where)
        elif PurePosixPath(image).suffix.lower() not in SUFFIXES:
            problems.add("image name with a stray extension skipped", image or where)
        elif not text:
            problems.add("empty caption skipped", where)
        elif line in seen:
            problems.add("duplicate line skipped", where)
        else:
            seen.add(line)
            usable.setdefault(image, []).append(text)
    return usable


def _locate(images: Iterable[str], folders: dict, photos: dict, problems: _Problems) -> dict[str, Path]:
    """The file of each image that has one: in the folder its layout tells, else the nearest of that name."""
    image_paths = {}
    for image in images:
        paths = photos.get(image, [])
        paths = [path for path in paths if path.parent.name == folders.get(image)] or paths
        if not paths or not paths[0].is_file():
            problems.add("image file missing", image)
            continue
        if len(paths) > 1:
            problems.add("image file in several folders, the first used", image)
        image_paths[image] = paths[0]
    return image_paths


def _draw_splits(images: Iterable[str], seed: int) -> dict[str, list[str]]:
    shuffled = sorted(images)
    random.Random(seed).shuffle(shuffled)
    tenth = max(1, round(len(shuffled) / 10)) if len(shuffled) >= 3 else 0
    return {"train": shuffled[2 * tenth :], "validation": shuffled[:tenth], "test": shuffled[tenth : 2 * tenth]}


def _assign(splits: dict, captions: dict, image_paths: dict[str, Path], problems: _Problems) -> dict[str, list[str]]:
    """The usable images of each split; an image that two splits claim stays in the first."""
    images, owner = {split: [] for split in SPLITS}, {}
    for split in SPLITS:
        for image in splits[split]:
            photo = _COCO_YEAR.sub("", image)
            if image not in captions:
                problems.add("image in a split but without a usable caption skipped", image)
            elif image not in image_paths:
                pass  # told already: its file is missing
            elif photo not in owner:
                owner[photo] = split
                images[split].append(image)
            elif owner[photo] == split:
                problems.add("image listed twice in one split, duplicate skipped", image)
            else:
                problems.add("image in two split files, the first kept", image)
    for image in image_paths:
        if _COCO_YEAR.sub("", image) not in owner:
            problems.add("image in no split skipped", image)
    return images


# Files and folders.


class _Problems:
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


def _find(folder: Path, pattern: str) -> list[Path]:
    return [path for name in _TEXT_FOLDERS for path in sorted((folder / name).glob(pattern)) if path.is_file()]


def _list_photos(folder: Path) -> dict[str, list[Path]]:
    """Name → files of that name, those nearest to `folder` first."""
    photos: dict[str, list[Path]] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        deep = len(Path(parent).relative_to(folder).parts) >= _PHOTO_FOLDER_DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith((".", "__")))
        for name in files:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                photos.setdefault(name, []).append(Path(parent, name))
    for paths in photos.values():
        paths.sort(key=lambda path: len(path.parts))
    return photos


def _read_text(path: Path, problems: _Problems) -> str:
    """The file's text, without a BOM and with "\\n" line ends; bytes that are not UTF-8 become U+FFFD."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        problems.add("file cannot be read", f"{path.name}: {error.strerror}")
        return ""
    if text.startswith("\ufeff"):
        problems.add("byte order mark (BOM) removed", path.name)
        text = text[1:]
    if "\r" in text:
        problems.add("Windows line ends (CRLF) removed", path.name)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _lines(path: Path, problems: _Problems) -> Iterator[tuple[str, str]]:
    """(where, line) for each line that is not blank."""
    for number, line in enumerate(_read_text(path, problems).split("\n"), start=1):
        if line.strip():
            yield f"{path.name} line {number}", line


def _parse_lines(path: Path, parse: Callable, problems: _Problems, header: str | None = None) -> list[_Caption]:
    """The captions that `parse(line) -> (image, number, text)` finds, but for the line whose image is `header`."""
    captions = []
    for where, line in _lines(path, problems):
        try:
            image, number, text = parse(line)
        except (ValueError, csv.Error):
            problems.add("malformed line skipped", where)
            continue
        if image.strip() != header:
            captions.append(_Caption(image.strip(), number, text, where))
    return captions


def _read_json(path: Path, keys: tuple[str, ...], problems: _Problems) -> dict:
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
