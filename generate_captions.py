"""Caption photos, or a clip, from Python or from the command line.

python generate_captions.py photo.jpg holiday/ --format csv --output captions.csv
python generate_captions.py clip.mp4 --format vtt --output clip.vtt
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TextIO, cast

from tqdm import tqdm

from captioning import artifacts
from captioning.artifacts import ArtifactError
from captioning.descriptions import Segment, make_segments, to_srt, to_vtt
from captioning.generator import DEFAULT_BEAM_WIDTH, MAX_BEAM_WIDTH, SEARCH_BATCH, Caption, CaptionGenerator
from captioning.image_workers import ImageWorkers, Photo
from captioning.images import SUFFIXES, ImageError
from captioning.litert import CPU_COUNT
from captioning.video import SUFFIXES as CLIP_SUFFIXES
from captioning.video import VideoError
from captioning.video_worker import Shot, read_shots_safely

__all__ = ["Caption", "CaptionGenerator"]

CHUNK = 8 * CPU_COUNT * SEARCH_BATCH  # photos that are read in advance

CLIP_ONLY = ("vtt", "srt")  # formats

Result = tuple[Path, Caption | None, str | None]  # the last is the error, if there is no caption
Reading = list[tuple[Path, Future[Photo]]]


def find_photos(arguments: Iterable[str]) -> list[Path]:
    """The photos named on the command line. Folders are searched; their photos are sorted by name."""
    photos = []
    for path in map(Path, arguments):
        if path.is_dir():
            photos += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            photos.append(path)
    return photos


def caption_files(
    generator: CaptionGenerator, workers: ImageWorkers, photos: Sequence[Path], beam_width: int, alternatives: int
) -> Iterator[Result]:
    """Caption photos in their order. ``workers`` read them."""

    def submit(chunk: Sequence[Path]) -> Reading:
        return [(path, workers.submit(path, size=generator.config["image_size"])) for path in chunk]

    def caption(reading: Reading) -> list[Result]:
        images, errors = {}, {}
        for path, future in reading:
            try:
                images[path] = future.result().image
            except ImageError as error:
                errors[path] = str(error)
        captions = generator.caption_batch(list(images.values()), beam_width, alternatives)
        found = dict(zip(images, captions, strict=True))
        return [(path, found.get(path), errors.get(path)) for path, _ in reading]

    reading: Reading = []
    for start in range(0, len(photos), CHUNK):
        following = submit(photos[start : start + CHUNK])
        yield from caption(reading)
        reading = following
    yield from caption(reading)


def caption_clip(generator: CaptionGenerator, path: Path, beam_width: int) -> list[Segment]:
    """As `CaptionGenerator.caption_video`, but a process with limits reads the clip; with progress on standard error.

    Raises:
        VideoError: the clip cannot be read.
    """
    shots = []
    try:
        with (
            path.open("rb") as file,
            tqdm(unit="s", file=sys.stderr, bar_format="{l_bar}{bar}| {n:.0f} s of the clip [{elapsed}]") as bar,
        ):
            for part in read_shots_safely(file, generator.config["image_size"], threads=min(CPU_COUNT, 4)):
                if isinstance(part, Shot):
                    shots.append(part)
                else:
                    bar.total = part.total
                    bar.update(part.seconds - bar.n)
    except OSError as error:
        raise VideoError(f"The file cannot be opened ({error.strerror}). Check its path and permissions.") from None
    return make_segments(shots, generator.caption_batch([shot.image for shot in shots], beam_width))


def write_segments(segments: Sequence[Segment], path: Path, kind: str, output: TextIO) -> None:
    """Write the captions of a clip as vtt, srt or json."""
    if kind == "json":
        row = {"video": str(path), "segments": [segment.to_dict() for segment in segments]}
        json.dump(row, output, indent=2, ensure_ascii=False)
        output.write("\n")
    else:
        output.write(to_vtt(segments) if kind == "vtt" else to_srt(segments))


def write_captions(results: Iterable[Result], kind: str, output: TextIO) -> None:
    """Write results as text, json, csv or COCO results. Only json includes photos without a caption."""
    if kind == "text":
        for path, caption, _ in results:
            if caption:
                print(path, caption.text, sep="\t", file=output, flush=True)
    elif kind == "csv":
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["image", "caption", "probability", "confidence"])
        for path, caption, _ in results:
            if caption:
                writer.writerow([path, caption.text, f"{caption.probability:.6g}", f"{caption.confidence:.3g}"])
    else:
        rows: list[dict] = []
        for path, caption, error in results:
            if kind == "coco":
                if caption:
                    rows.append({"image_id": path.stem, "caption": caption.text})
            elif caption:
                alternatives = [_describe(alternative) for alternative in caption.alternatives]
                rows.append({"image": str(path), **_describe(caption), "alternatives": alternatives})
            else:
                rows.append({"image": str(path), "error": error})
        json.dump(rows, output, indent=2, ensure_ascii=False)
        output.write("\n")


def _describe(caption: Caption) -> dict:
    return {"caption": caption.text, "probability": caption.probability, "confidence": caption.confidence}


def open_output(path: Path | None) -> contextlib.AbstractContextManager[TextIO]:
    """Standard output, a pipe or a device, or a file that appears when it is complete."""
    if path is None:
        return contextlib.nullcontext(sys.stdout)
    if path.exists() and not path.is_file():
        return path.open("w", encoding="utf-8")
    return cast(contextlib.AbstractContextManager[TextIO], artifacts.replace_file(path.resolve(), "w"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all captioned, 1 some failed, 2 wrong usage or artifacts."""
    parser = argparse.ArgumentParser(description="Caption photos, or the shots of a clip of up to 3 minutes.")
    parser.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER_OR_CLIP")
    width: dict[str, Any] = {"type": int, "choices": range(1, MAX_BEAM_WIDTH + 1), "metavar": f"1-{MAX_BEAM_WIDTH}"}
    parser.add_argument("--beam-width", default=DEFAULT_BEAM_WIDTH, **width,
                        help="captions that the search keeps at each word (default: %(default)s)")  # fmt: skip
    parser.add_argument("--alternatives", default=1, help="captions per photo, for json (default: 1)", **width)
    parser.add_argument("--format", choices=["text", "json", "csv", "coco", "vtt", "srt"],
                        help="default: text for photos, vtt for a clip")  # fmt: skip
    parser.add_argument("--output", type=Path, help="a file instead of standard output")
    parser.add_argument("--workers", type=int, default=CPU_COUNT, choices=range(1, 65), metavar="1-64",
                        help="processes that read photos (default: one per core)")  # fmt: skip
    options = parser.parse_args(arguments)
    photos = find_photos(options.photos)
    is_clip = options.format in CLIP_ONLY or any(path.suffix.lower() in CLIP_SUFFIXES for path in photos)
    options.format = options.format or ("vtt" if is_clip else "text")
    if is_clip and (len(photos) != 1 or options.format not in (*CLIP_ONLY, "json")):
        parser.error("a clip is captioned on its own, with --format vtt, srt or json")
    if not photos:
        parser.error("no photos found in " + ", ".join(options.photos))
    failed = 0

    def with_progress(results: Iterator[Result]) -> Iterator[Result]:
        nonlocal failed
        for result in tqdm(results, total=len(photos), unit="photo", file=sys.stderr):
            path, _, error = result
            if error:
                failed += 1
                tqdm.write(f"error: {path}: {error}", file=sys.stderr)
            yield result

    try:
        with open_output(options.output) as output, ImageWorkers(min(options.workers, len(photos))) as workers:
            generator = CaptionGenerator.load(os.environ.get("ARTIFACTS_DIR", Path(__file__).parent / "artifacts"))
            if is_clip:
                segments = caption_clip(generator, photos[0], options.beam_width)
                write_segments(segments, photos[0], options.format, output)
                return 0
            results = caption_files(generator, workers, photos, options.beam_width, options.alternatives)
            write_captions(with_progress(results), options.format, output)
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except VideoError as error:
        print(f"error: {photos[0]}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot write {options.output or 'to standard output'}: {error.strerror}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
