"""Reads a folder of photos and their captions, in any of the usual layouts, into one `Dataset`.

    dataset = load_dataset("data/flickr8k")
    print(dataset.summary())
    dataset.captions["train"]["1000268201_693b08cb0e.jpg"]   # its captions, as their authors wrote them

Data sets: Flickr8k (Hodosh, Young and Hockenmaier, 2013, JAIR 47: 853-899), Flickr30k (Young et al., 2014,
TACL 2: 67-78), COCO captions (Chen et al., 2015, arXiv:1504.00325); splits of Karpathy and Fei-Fei (CVPR 2015).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from captioning import artifacts
from captioning.images import SUFFIXES
from captioning.languages import LANGUAGES
from captioning.training.layouts import (
    LAYOUTS,
    READERS,
    SPLITS,
    Caption,
    Problems,
    find_files,
    read_translations,
)

HOW_TO_GET_FLICKR8K = """\
To get Flickr8k (for research; Hodosh, Young and Hockenmaier, 2013): unpack Flickr8k_Dataset.zip and
Flickr8k_text.zip into this folder, or the Kaggle data set adityajn105/flickr8k."""

_PHOTO_FOLDER_DEPTH = 3  # Kaggle packs Flickr30k's photos in flickr30k_images/flickr30k_images/flickr30k_images/
_LOST_CHARACTER = re.compile(r"[\ufffd\ud800-\udfff]")  # what is left of bytes that are not UTF-8
_FLICKR8K_SECRET = re.compile(r"^(\d+)_[0-9a-f]+(?=\.)")  # 23445819_3a458716c1.jpg is 23445819.jpg in Flickr30k
_COCO_YEAR = re.compile(r"^COCO_[a-z]+\d{4}_(?=\d{12}\.)")  # COCO_val2014_000000000139.jpg is 000000000139.jpg


class DatasetError(ValueError):
    """The folder holds no data set that can be used; the message lists the known layouts and what was found."""


@dataclass(frozen=True)
class Dataset:
    """Photos with their captions, split for training, validation and test.

    Attributes:
        name: "flickr8k", "flickr30k", "coco", "multi30k", the name in Karpathy's file, or that of the folder.
        image_paths: image name → file, for every image of every split.
        captions: split → image name → captions. All three `SPLITS` are there, perhaps empty.
        problems: what was skipped or repaired and why, one line a kind, with its count and first examples.
        translations: language → split → image name → captions, for each language other than English that the folder
            has captions in. Not every image needs to have some.
        drawn: whether the splits were drawn at random, because the layout has none.
    """

    name: str
    image_paths: dict[str, Path]
    captions: dict[str, dict[str, list[str]]]
    problems: tuple[str, ...]
    translations: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)
    drawn: bool = False

    def summary(self) -> str:
        """Images and captions of each split, and the problems, in a few lines for people."""
        lines = [f"{self.name}: {len(self.image_paths)} images"]
        for split in SPLITS:
            images = self.captions[split]
            count = sum(map(len, images.values()))
            lines.append(f"  {split:<10} " + (f"{len(images):>6} images, {count} captions" if images else "empty"))
        for language, splits in self.translations.items():
            counts = ", ".join(f"{sum(map(len, splits[split].values()))} {split}" for split in SPLITS)
            lines.append(f"  {LANGUAGES[language].name}: {counts} captions")
        lines += ["problems:", *(f"  - {line}" for line in self.problems)] if self.problems else ["no problems"]
        return "\n".join(lines)


def load_dataset(folder: str | Path, seed: int = 0) -> Dataset:
    """Read the data set in `folder`, whichever known layout it has; a Karpathy file, if there, decides the splits.

    Data sets that come without splits are split 80/10/10 by image, the same way for the same `seed`.
    Dirt (missing image, empty caption, duplicate line, stray extension, undecodable bytes, malformed line)
    is skipped and listed in `Dataset.problems`. Captions stay as written, without the white space around them.

    Raises:
        DatasetError: no known layout, or not one image that is there, has a caption and belongs to a split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise _no_dataset(f"{folder} is not a folder.")
    photos = None
    passed_over: list[str] = []
    reasons: list[str] = []
    for pattern, read in READERS.items():
        if not (found := find_files(folder, pattern)):
            continue
        photos = _list_photos(folder) if photos is None else photos
        problems = Problems()
        source = read(folder, found[0], problems)
        captions = _usable_captions(source.captions, problems)
        image_paths = _locate(captions, source.folders, photos, problems)
        splits = source.splits or _draw_splits(image_paths, seed)
        images = _assign(splits, captions, image_paths, problems)
        if any(images.values()):
            translations, used = {}, {image for split in SPLITS for image in images[split]}
            flickr30k_names = {_FLICKR8K_SECRET.sub(r"\1", image): image for image in sorted(used)}
            flickr30k_names.update(zip(used, used, strict=True))
            for language in [code for code in LANGUAGES if code != "en"]:
                translated = _usable_captions(read_translations(folder, language, problems), problems, language)
                translated = {flickr30k_names.get(image, image): texts for image, texts in translated.items()}
                by_split = {split: {i: translated[i] for i in images[split] if i in translated} for split in SPLITS}
                for image in sorted(translated.keys() - used):
                    problems.add(f"captions in {language!r} of a photo that is not used skipped", image)
                if any(by_split.values()):
                    translations[language] = by_split
            return Dataset(
                name=source.name,
                image_paths={image: image_paths[image] for split in SPLITS for image in images[split]},
                captions={split: {image: captions[image] for image in images[split]} for split in SPLITS},
                problems=(*passed_over, *problems.lines()),
                translations=translations,
                drawn=source.splits is None,
            )
        passed_over.append(f"{found[0].name} passed over: no usable image")
        reasons += [f"{found[0].name} gives no usable image:", *(f"- {line}" for line in problems.lines())]
    names = sorted(path.name for path in folder.iterdir())
    more = ", …" if len(names) > 12 else ""
    raise _no_dataset(
        f"No usable data set in {folder}. It holds: {', '.join(names[:12]) or 'nothing'}{more}.", *reasons
    )


def trained_splits(dataset: Dataset, folder: str | Path, trained_on: str) -> dict[str, dict[str, list[str]]]:
    """The captions by split that the model in an artifacts folder was trained with, as `Dataset.captions`.

    They are in ``captions.pkl``: splits that are drawn change when photos are added to the data set. Without this file,
    or where it has none of these photos, they are those of the data set.

    Args:
        trained_on: the name of the data set that the model was trained on.

    Raises:
        DatasetError: the model was trained on this data set, but with which photos is unknown.
    """
    path = Path(folder) / "captions.pkl"
    splits = artifacts.read_pickle(path) if path.exists() else {split: {} for split in SPLITS}
    splits = {split: in_common(dataset, splits[split]) for split in SPLITS}
    if any(splits.values()):
        return splits
    if dataset.drawn and dataset.name.lower() == trained_on.lower():
        raise DatasetError(
            f"The model in {folder} was trained on {trained_on}, perhaps on photos that are test photos here: the "
            f"splits of this copy are drawn at random. Use a copy with the official splits, such as Karpathy's "
            f"dataset_{trained_on}.json beside the photos."
        )
    return dataset.captions


def in_common(dataset: Dataset, captions: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The photos that a data set has too, with their captions: the name and the words of one caption are the same."""

    def words(texts: list[str]) -> set[tuple[str, ...]]:
        return {tuple(LANGUAGES["en"].words(text)) for text in texts}

    theirs = {name: words(texts) for images in dataset.captions.values() for name, texts in images.items()}
    return {name: texts for name, texts in captions.items() if words(texts) & theirs.get(name, set())}


def has_several_captions(captions: Mapping[str, list[str]]) -> bool:
    """Whether photos have at least two captions on average. One reference is too few for self-critical training."""
    return sum(map(len, captions.values())) >= 2 * len(captions)


def translated_splits(
    dataset: Dataset, splits: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Language → split → image name → captions in that language, for the images of these splits."""
    result = {}
    for language, by_split in dataset.translations.items():
        texts = {name: captions for images in by_split.values() for name, captions in images.items()}
        result[language] = {s: {n: texts[n] for n in images if n in texts} for s, images in splits.items()}
    return result


def _no_dataset(*reasons: str) -> DatasetError:
    return DatasetError("\n".join([*reasons, "Layouts looked for:", LAYOUTS, HOW_TO_GET_FLICKR8K]))


def _usable_captions(captions: list[Caption], problems: Problems, language: str = "en") -> dict[str, list[str]]:
    """The captions of each image, stripped, without the dirty ones."""
    usable: dict[str, list[str]] = {}
    seen = set()
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
        elif not LANGUAGES[language].words(text):
            problems.add("caption without a word skipped", where)
        elif line in seen:
            problems.add("duplicate line skipped", where)
        else:
            seen.add(line)
            usable.setdefault(image, []).append(text)
    return usable


def _locate(images: Iterable[str], folders: Mapping, photos: dict, problems: Problems) -> dict[str, Path]:
    """The file of each image that has one: in the folder that its layout defines, else the nearest of that name."""
    image_paths = {}
    for image in images:
        paths = photos.get(image, [])
        paths = [path for path in paths if path.parent.name == folders.get(image)] or paths
        if not paths or not paths[0].is_file():
            problems.add("image file missing" + (" (names must be without folders)" if "/" in image else ""), image)
            continue
        if len(paths) > 1:
            problems.add("image file in several folders, the first used", image)
        image_paths[image] = paths[0]
    return image_paths


def _draw_splits(images: Iterable[str], seed: int) -> dict[str, list[str]]:
    # By a hash of the name: if photos are added, hardly any other photo changes its split.
    shuffled = sorted(images, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
    tenth = max(1, round(len(shuffled) / 10)) if len(shuffled) >= 3 else 0
    return {"train": shuffled[2 * tenth :], "validation": shuffled[:tenth], "test": shuffled[tenth : 2 * tenth]}


def _assign(splits: dict, captions: dict, image_paths: dict[str, Path], problems: Problems) -> dict[str, list[str]]:
    """The usable images of each split; an image in two splits stays in the first one."""
    images: dict[str, list[str]] = {split: [] for split in SPLITS}
    owner: dict[str, str] = {}
    for split in SPLITS:
        for image in splits[split]:
            photo = _COCO_YEAR.sub("", image)
            if image not in captions:
                problems.add("image in a split but without a usable caption skipped", image)
            elif image not in image_paths:
                pass  # already listed: its file is missing
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
