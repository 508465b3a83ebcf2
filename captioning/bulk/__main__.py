"""The command line: ``python -m captioning.bulk PHOTOS --output FOLDER``. See docs/scale.md."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from captioning.artifacts import ArtifactError
from captioning.bulk import AGAIN, BulkError
from captioning.generator import DEFAULT_BEAM_WIDTH, MAX_BEAM_WIDTH

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all captioned, 1 some failed or the run stopped, 2 it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m captioning.bulk",
        description="Caption many photos, here or on a Ray cluster. Run again after a stop: finished photos are kept.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT",
                        help="folder, photo, pattern, s3:// or gs:// prefix, tar, or a Parquet or CSV file with a "
                             "column of paths or bytes")  # fmt: skip
    parser.add_argument("--output", required=True, help="folder, s3:// or gs:// prefix for captions.parquet")
    parser.add_argument("--address", help="a Ray cluster, such as auto or 10.0.0.1:6379 (default: this machine)")
    parser.add_argument("--beam-width", type=int, default=DEFAULT_BEAM_WIDTH, choices=range(1, MAX_BEAM_WIDTH + 1),
                        metavar=f"1-{MAX_BEAM_WIDTH}",
                        help="candidates that the beam search keeps at each word (default: %(default)s)")  # fmt: skip
    parser.add_argument("--language", help="of the captions, such as de (default: the first that the model has, en)")
    parser.add_argument("--features", action="store_true",
                        help="encode the photos of a data set for training, into features.pkl and .npy")  # fmt: skip
    parser.add_argument("--format", choices=["parquet", "jsonl", "coco"], default="parquet",
                        help="jsonl and coco also write all captions into one file (default: parquet)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        from captioning.bulk.run import Run
    except ImportError as error:
        return _error(f"bulk captions need more packages ({error}): pip install -r requirements-cluster.txt")
    if options.features:
        if options.format != "parquet" or options.language or options.beam_width != DEFAULT_BEAM_WIDTH:
            parser.error("--features takes neither --format nor --language nor --beam-width")
        if "://" in options.output:
            parser.error("--features needs a folder on this machine as --output")
        return _extract_features(options)
    model_folder = os.environ.get("ARTIFACTS_DIR") or str(ROOT / "artifacts")
    caption_options = {"beam_width": options.beam_width, "language": options.language}
    done = failed = 0
    try:
        try:
            run = Run(options.inputs, options.output, model_folder, caption_options, address=options.address)
        except (ArtifactError, BulkError) as error:
            return _error(str(error))
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),  # Ray prints tracebacks of what it repeats
            tqdm(total=run.photos, unit="photo", file=sys.stderr) as bar,
        ):
            for photos, errors in run.work():
                done, failed = done + photos, failed + errors
                bar.update(photos)
        if options.format != "parquet":
            run.shards.export(options.format)
    except KeyboardInterrupt:
        return _error(f"stopped. {AGAIN}", 130)
    except (BulkError, OSError) as error:
        return _error(str(error), 1)
    print(f"{done} photos done, all captions are in {run.shards.output}", file=sys.stderr)
    if failed:
        return _error(f"{failed} of {done} photos have no caption but an error: see the column error", 1)
    return 0


def _extract_features(options: argparse.Namespace) -> int:
    """What notebook 01 does with its default encoder; it then finds the features done.

    Photos that cannot be read are left out, as there, and the exit code is 0.
    """
    try:
        from captioning.bulk.features import extract
    except ImportError as error:
        return _error(f"features need more packages ({error}): pip install -r requirements.txt")
    try:
        features = extract(options.inputs, Path(options.output), options.address)
    except KeyboardInterrupt:
        return _error(f"stopped. {AGAIN}", 130)
    except (OSError, ValueError) as error:
        return _error(str(error))
    print(f"{len(features)} photos encoded, {len(features.failed)} could not be read", file=sys.stderr)
    return 0


def _error(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
