"""Convert the Keras models to LiteRT, with weights rounded to eight bits, for everything that only captions.

python -m captioning.network.export artifacts
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import io
import logging
import os
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioning import artifacts
from captioning.exported import encoder_of
from captioning.generator import DEFAULT_BEAM_WIDTH, MAX_BEAM_WIDTH, SEARCH_BATCH
from captioning.network.decoder import Decoder
from captioning.network.encoder import Encoder, fold_batch_normalisation, weights_checksum
from captioning.network.saving import load_model
from captioning.network.search import beam_search, max_beam_width
from captioning.text import Tokenizer

# The converter warns about untracked objects for every function. These functions have none.
logging.getLogger("absl").addFilter(lambda record: "trackable_obj" not in record.getMessage())


def export(folder: str | Path) -> None:
    """Convert the Keras models of an artifacts folder, write the exported ones beside them, and the manifest.

    ``search.tar.xz`` holds a search for each beam width and language, for one photo and for `SEARCH_BATCH` photos. They
    have most weights in common, so that the archive is hardly larger than one search of each language.

    Raises:
        ArtifactError: a file of the folder is missing or does not fit the others.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):  # known only after minutes otherwise
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    encoder, searches, languages = convert_folder(folder)
    # The default beam width comes first, because the first one loads fastest.
    widths = sorted(range(1, MAX_BEAM_WIDTH + 1), key=lambda width: width != DEFAULT_BEAM_WIDTH)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=9) as tar:
        for width, language in tqdm(list(product(widths, languages)), desc="export", unit="search"):
            for batch_size, content in searches(language, width).items():
                member = tarfile.TarInfo(f"{language}_beam{width}_batch{batch_size}.tflite")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    artifacts.write_bytes(folder / "encoder.tflite", encoder)
    artifacts.write_bytes(folder / "search.tar.xz", archive.getvalue())
    artifacts.write_manifest(folder, exported=True)


def convert_folder(folder: str | Path) -> tuple[bytes, Callable[[str, int], dict[int, bytes]], list[str]]:
    """The exported encoder of an artifacts folder, a function that exports the search for a language and a beam width,
    and the languages."""
    encoder, decoders, tokenizers, config = load_model(folder)

    def search(language: str, beam_width: int) -> dict[int, bytes]:
        settings = beam_width, config["max_length"], config["length_power"]
        return convert_search(decoders[language], tokenizers[language], *settings)

    return convert_encoder(encoder), search, list(decoders)


_latest: tuple[object, bytes] = None, b""  # the encoder that was converted last, and the result


def convert_encoder(encoder: Encoder) -> bytes:
    """The encoder as a LiteRT model: one image (1, H, W, 3) uint8 → features (1, R, D) float32.

    It takes about ten seconds. The latest result is kept, because training needs the same one for each set of features.
    """
    global _latest
    key = encoder.network, encoder.image_size, weights_checksum(encoder)
    if _latest[0] != key:
        _latest = key, _convert_encoder(encoder)
    return _latest[1]


def _convert_encoder(encoder: Encoder) -> bytes:
    backbone = fold_batch_normalisation(encoder.backbone)
    shape = (1, encoder.image_size, encoder.image_size, 3)
    return _convert(lambda images: (encoder.features(backbone, images),), tf.TensorSpec(shape, tf.uint8))


def convert_search(
    decoder: Decoder, tokenizer: Tokenizer, beam_width: int, max_length: int, length_power: float
) -> dict[int, bytes]:
    """Beam search as LiteRT models, by batch size: one image and `SEARCH_BATCH` images.

    Features (B, R, D) float32 → tokens, log probabilities, scores and, if the decoder has it, attention, as in
    `captioning.exported.Hypotheses`. The beam is at most as wide as the vocabulary.
    """
    width = min(beam_width, max_beam_width(decoder))

    def search(features):
        found = beam_search(decoder, tokenizer, features, width, max_length, length_power)
        return tuple(found[name] for name in ("tokens", "log_probabilities", "scores", "attention") if name in found)

    shape = (decoder.regions, decoder.settings["depth"])
    return {size: _convert(search, tf.TensorSpec((size, *shape), tf.float32)) for size in sorted({1, SEARCH_BATCH})}


def quantized_encoder(encoder: Encoder) -> Callable[[np.ndarray], np.ndarray]:
    """The encoder as it will ship, for feature extraction. Features differ by up to 4 % from
    those of a call and take a third of the time."""
    return encoder_of(convert_encoder(encoder))


def _convert(function: Callable, spec: tf.TensorSpec) -> bytes:
    traced = tf.function(function, autograph=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    converter.experimental_enable_resource_variables = False  # weights become constants, also inside loops
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        return converter.convert()
    finally:
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Give the memory of a conversion, about a gigabyte, back to the system. glibc would keep it."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m captioning.network.export", description="Convert the Keras models of a folder to LiteRT."
    )
    parser.add_argument("folder", help="of the model; the converted files are added to it")
    folder = parser.parse_args(arguments).folder
    try:
        export(folder)
    except (artifacts.ArtifactError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
