"""Caption photos, or a clip, from Python or from the command line.

python generate_captions.py photo.jpg holiday/ --format csv --output captions.csv
python generate_captions.py clip.mp4 --format vtt --output clip.vtt
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from captioning import artifacts
from captioning.artifacts import ArtifactError
from captioning.cores import CPU_COUNT
from captioning.descriptions import Segment, to_srt, to_vtt
from captioning.folders import files_below
from captioning.generator import (
    DEFAULT_BEAM_WIDTH,
    MAX_BEAM_WIDTH,
    NO_CAPTION,
    SEARCH_BATCH,
    Caption,
    CaptionGenerator,
)
from captioning.html_alt import HtmlError, find_images, insert_drafts, local_path
from captioning.image_workers import ImageWorkers
from captioning.images import SUFFIXES, ImageError, Photo
from captioning.litert import make_batches, parallel_map
from captioning.metadata import MetadataError, write_metadata
from captioning.shots import Progress
from captioning.text import coco_image_id, sentence
from captioning.video import SUFFIXES as CLIP_SUFFIXES
from captioning.video import VideoError

__all__ = ["Caption", "CaptionGenerator"]

CLIP_ONLY = ("vtt", "srt")  # formats

Result = tuple[Path, Caption | None, str | None]  # the last is the error, if there is no caption
Reading = list[tuple[Path, Future[Photo]]]


def find_photos(arguments: Iterable[str]) -> tuple[list[Path], list[OSError]]:
    """The photos named on the command line, and an error for each folder that cannot be searched.

    Folders are searched; their photos are sorted by name. Files that macOS writes beside photos (``._a.jpg``) are left
    out.
    """
    photos: list[Path] = []
    errors: list[OSError] = []
    for path in map(Path, arguments):
        if os.path.isdir(path):  # pathlib raises an error for a folder that may not be read
            found = map(Path, files_below(str(path), errors.append))
            photos += sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("._"))
        else:
            photos.append(path)
    return photos, errors


def caption_files(
    generator: CaptionGenerator, workers: ImageWorkers, photos: Sequence[Path], **options: Any
) -> Iterator[Result]:
    """Caption photos in their order. ``workers`` read them; ``options`` are those of `CaptionGenerator.caption`."""

    def read(batch: Sequence[Path]) -> Reading:
        return [(path, workers.submit(path, size=generator.config["image_size"])) for path in batch]

    def caption(reading: Reading) -> list[Result]:
        images, errors = {}, {}
        for path, future in reading:
            try:
                images[path] = future.result().image
            except ImageError as error:
                errors[path] = str(error)
        captions = generator.caption_batch(list(images.values()), **options)
        found = {path: caption for path, caption in zip(images, captions, strict=True) if caption.text}
        errors |= {path: NO_CAPTION for path in images if path not in found}
        return [(path, found.get(path), errors.get(path)) for path, _ in reading]

    return chain.from_iterable(parallel_map(caption, map(read, make_batches(photos, SEARCH_BATCH))))


def write_segments(segments: Sequence[Segment], path: Path, kind: str, output: IO[str]) -> None:
    """Write the captions of a clip as vtt, srt or json."""
    if kind == "json":
        row = {"video": printable(path), "segments": [segment.to_dict() for segment in segments]}
        json.dump(row, output, indent=2, ensure_ascii=False)
        output.write("\n")
    else:
        output.write(to_vtt(segments) if kind == "vtt" else to_srt(segments))


def write_captions(results: Iterable[Result], kind: str, output: IO[str]) -> None:
    """Write results as text, json, csv or COCO results. Only json includes photos without a caption."""
    if kind == "text":
        for path, caption, _ in results:
            if caption:
                print(path, caption.text, sep="\t", file=output, flush=True)
    elif kind == "csv":
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["image", "caption", "probability", "confidence", "language"])
        for path, caption, _ in results:
            if caption:
                numbers = f"{caption.probability:.6g}", f"{caption.confidence:.3g}"
                writer.writerow([path, caption.text, *numbers, caption.language])
    else:
        rows: list[dict] = []
        for path, caption, error in results:
            if kind == "coco":
                if caption:
                    rows.append({"image_id": coco_id(path), "caption": caption.text})
            elif caption:
                alternatives = [alternative.to_dict() for alternative in caption.alternatives]
                row = {"image": printable(path), **caption.to_dict(), "language": caption.language}
                rows.append({**row, "alternatives": alternatives})
            else:
                rows.append({"image": printable(path), "error": error})
        json.dump(rows, output, indent=2, ensure_ascii=False)
        output.write("\n")


def coco_id(path: Path) -> int | str:
    return coco_image_id(printable(path.name))


def printable(path: str | Path) -> str:
    """A path as text. Bytes that are not UTF-8, as some old file names have, become the replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")


def open_output(path: Path | None, mode: str = "w") -> contextlib.AbstractContextManager[IO]:
    """Standard output, a pipe or a device, or a file that appears when it is complete."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # file names may not be UTF-8
        return flushed(sys.stdout)
    if path.exists() and not path.is_file():
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
        return path.open(mode, encoding=encoding, errors=errors)
    return artifacts.replace_file(path.resolve(), mode)


@contextlib.contextmanager
def flushed(output: IO) -> Iterator[IO]:
    """An open file, flushed at the end, so that a full disk is noticed."""
    yield output
    output.flush()


def load_generator(language: str | None) -> CaptionGenerator:
    """The model in ``ARTIFACTS_DIR``. Raises ArtifactError, also if it does not have the language."""
    generator = CaptionGenerator.load(os.environ.get("ARTIFACTS_DIR") or Path(__file__).parent / "artifacts")
    if language not in (None, *generator.languages):
        raise ArtifactError(f"--language {language}: the model has captions in: {', '.join(generator.languages)}")
    return generator


def caption_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `CaptionGenerator.caption`."""
    return {name: getattr(options, name) for name in ("beam_width", "alternatives", "language")}


def draft_page(options: argparse.Namespace) -> int:
    """Write drafts of alt texts into a copy of a web page; returns the exit code: 1 if an image has none."""
    try:
        page = options.html.read_bytes()
        images = find_images(page)
    except (HtmlError, OSError) as error:
        print(f"error: {options.html}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    places = {image: local_path(image) for image in images}
    files = {image: options.html.parent / place for image, place in places.items() if place}
    photos = list(dict.fromkeys(files.values()))
    left = {image: "no local file; write its text by hand" for image in images if image not in files}
    drafts = {}
    with (
        open_output(options.output, "wb") as output,
        ImageWorkers(min(options.workers, max(1, len(photos)))) as workers,
    ):
        found: dict[Path, Result] = {}
        if photos:
            results = caption_files(load_generator(options.language), workers, photos, **caption_options(options))
            found = {result[0]: result for result in tqdm(results, total=len(photos), unit="photo", file=sys.stderr)}
        for image, path in files.items():
            _, caption, problem = found[path]
            if caption:
                drafts[image] = sentence(caption.text)
            else:
                left[image] = str(problem)
        output.write(insert_drafts(page, drafts))
    for image in sorted(left):
        source = "".join(filter(str.isprintable, image.source[:200])) or "<img> without src"
        print(f"{options.html}:{image.line}: {source}: {left[image]}", file=sys.stderr)
    print(f"Drafts to check: {len(drafts)}. Images without a draft: {len(left)}.", file=sys.stderr)
    return 1 if left else 0


def caption_photos(options: argparse.Namespace, photos: Sequence[Path]) -> int:
    """Caption photos; returns the exit code: 1 if some failed."""
    failed = 0

    def with_progress(results: Iterator[Result]) -> Iterator[Result]:
        nonlocal failed
        for result in tqdm(results, total=len(photos), unit="photo", file=sys.stderr):
            path, caption, error = result
            if caption and options.write_metadata:
                error = add_metadata(path, caption, options.in_place, options.overwrite)
            if error:
                failed += 1
                tqdm.write(f"error: {path}: {error}", file=sys.stderr)
            yield result

    with open_output(options.output) as output, ImageWorkers(min(options.workers, len(photos))) as workers:
        generator = load_generator(options.language)
        results = caption_files(generator, workers, photos, **caption_options(options))
        write_captions(with_progress(results), options.format or "text", output)
    return 1 if failed else 0


def add_metadata(path: Path, caption: Caption, in_place: bool, overwrite: bool) -> str | None:
    """Write a caption into a photo's metadata; returns the error, if there is one."""
    try:
        kept = write_metadata(path, sentence(caption.text), in_place=in_place, overwrite=overwrite)
    except MetadataError as error:
        return f"{error} Use a sidecar file: leave out --in-place." if in_place else str(error)
    except OSError as error:
        return f"The metadata cannot be written ({error.strerror or error})."
    if kept:
        hint = "" if overwrite else " (--overwrite replaces it)"
        tqdm.write(f"kept: {path}: {', '.join(kept)}{hint}", file=sys.stderr)
    return None


def caption_clip(options: argparse.Namespace, path: Path) -> int:
    """Write the captions of a clip's shots; returns the exit code: 1 if it cannot be read."""
    bar_format = "{l_bar}{bar}| {n:.0f} s of the clip [{elapsed}]"

    def show(progress: Progress) -> None:
        bar.total = progress.total
        bar.update(progress.seconds - bar.n)

    try:
        with open_output(options.output) as output:
            generator = load_generator(options.language)
            with tqdm(unit="s", file=sys.stderr, bar_format=bar_format) as bar:
                width, language = options.beam_width, options.language
                segments = generator.caption_video(path, width, language=language, on_progress=show)
            write_segments(segments, path, options.format or "vtt", output)
    except VideoError as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all captioned, 1 some failed, 2 wrong usage or artifacts."""
    parser = argparse.ArgumentParser(
        description="Caption photos, the shots of a clip, or the images of a web page.",
        epilog="The model is that of the folder in ARTIFACTS_DIR (default: artifacts, beside this program).",
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO_OR_FOLDER_OR_CLIP",
                        help="photos, folders that are searched for photos, or one clip")  # fmt: skip
    width: dict[str, Any] = {"type": int, "choices": range(1, MAX_BEAM_WIDTH + 1), "metavar": f"1-{MAX_BEAM_WIDTH}"}
    parser.add_argument("--beam-width", default=DEFAULT_BEAM_WIDTH, **width,
                        help="candidates that the beam search keeps at each word (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--alternatives", default=1, help="captions per photo, with --format json (default: 1)", **width
    )
    parser.add_argument("--language", help="of the captions, such as de (default: the first that the model has, en)")
    parser.add_argument("--format", choices=["text", "json", "csv", "coco", "vtt", "srt"],
                        help="default: text for photos, vtt for a clip")  # fmt: skip
    parser.add_argument("--output", type=Path, help="a file instead of standard output")
    parser.add_argument("--workers", type=int, default=CPU_COUNT, choices=range(1, 65), metavar="1-64",
                        help="processes that read photos (default: one per core)")  # fmt: skip
    parser.add_argument("--write-metadata", action="store_true",
                        help="write captions as alt text into PHOTO.xmp beside each photo")  # fmt: skip
    parser.add_argument("--in-place", action="store_true",
                        help="with --write-metadata: into the photo itself (JPEG, PNG, WebP, TIFF)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true",
                        help="with --write-metadata: replace text that is there already")  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="PAGE",
                        help="write drafts of alt texts into a copy of this web page, at --output")  # fmt: skip
    options = parser.parse_args(arguments)
    if "" in options.photos:
        parser.error("the name of a photo or folder is empty")
    if options.html and (options.photos or not options.output):
        parser.error("--html needs --output and takes no photos: it captions the images of the page")
    if (options.in_place or options.overwrite) and not options.write_metadata:
        parser.error("--in-place and --overwrite need --write-metadata")
    if options.html and (options.format or options.write_metadata):
        parser.error("--html takes neither --format nor --write-metadata: it writes a page")
    photos, left_out = find_photos(options.photos)
    for error in left_out:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    is_clip = options.format in CLIP_ONLY or any(path.suffix.lower() in CLIP_SUFFIXES for path in photos)
    if is_clip and (len(photos) != 1 or options.format not in (None, *CLIP_ONLY, "json")):
        parser.error("name one clip and nothing else, with --format vtt, srt or json")
    if is_clip and options.write_metadata:
        parser.error("--write-metadata is for photos, not for clips")
    if options.alternatives > 1 and (is_clip or options.format != "json"):
        parser.error("--alternatives is for photos, with --format json")
    if options.format == "coco":
        repeated = [image_id for image_id, number in Counter(map(coco_id, photos)).items() if number > 1]
        if repeated:
            parser.error(
                f"--format coco: several photos would have id {repeated[0]}. Rename them, or give one folder at a time"
            )
    if not photos and left_out:
        return 1
    if not photos and not options.html:
        parser.error("no photos found in " + ", ".join(options.photos) if options.photos else "name photos or folders")
    try:
        if options.html:
            return draft_page(options)
        code = caption_clip(options, photos[0]) if is_clip else caption_photos(options, photos)
        return 1 if left_out else code
    except (ArtifactError, RuntimeError) as error:  # RuntimeError: no further process can be started
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"error: cannot write {options.output or 'to standard output'}: {error.strerror}", file=sys.stderr)
        if options.output:
            return 2
        with contextlib.suppress(OSError):  # what is left in the buffer would fail again at the exit, with another code
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes unfinished files on its way
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while folders are searched
        sys.exit(130)
