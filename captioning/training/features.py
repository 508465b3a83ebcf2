"""Features: the encoder's output for every picture of a data set, kept on disk."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from captioning import artifacts
from captioning.network.encoder import Encoder, weights_checksum
from captioning.network.export import quantized_encoder
from captioning.training.augmentation import augment
from captioning.training.reading import read_batches


class Features(Mapping):
    """Features by image name, read from disk when they are needed: ``features[name]`` is float16 (R, D).

    ``features.failed`` maps the pictures that could not be read to the reason. ``features.weights`` is the
    `weights_checksum` of their encoder, ``features.sizes`` the `sizes_checksum` of their files.
    """

    def __init__(
        self, array: np.ndarray, rows: dict[str, int], failed: dict[str, str], weights: int = 0, sizes: int = 0
    ):
        self.array, self.rows, self.failed, self.weights, self.sizes = array, rows, failed, weights, sizes

    def __getitem__(self, name: str) -> np.ndarray:
        row = self.array[self.rows[name]]
        if not isinstance(self.array, np.memmap):
            return row
        # Pages of a mapped file count as memory of the process until the system needs them. So read, and map nothing.
        start = self.array.offset + self.rows[name] * row.nbytes
        return np.fromfile(str(self.array.filename), row.dtype, row.size, offset=start).reshape(row.shape)

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, names) -> np.ndarray:
        """float16 (B, R, D) of several images."""
        return np.stack([self[name] for name in names])


def load_features(path: Path) -> Features:
    """Open ``features.pkl`` and the array beside it.

    Raises:
        ArtifactError: one of the two is missing, does not fit the other, or is not complete.
    """
    path = Path(path)
    index = artifacts.read_pickle(path)
    try:
        array = np.load(path.with_name(index["array"]), mmap_mode="r", allow_pickle=False)
        fingerprint = index["fingerprint"]
        missing = len(fingerprint["bytes"]) - index["done"]
        sizes = sizes_checksum(fingerprint["bytes"])
        features = Features(array, index["rows"], index["failed"], fingerprint["weights"], sizes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise artifacts.ArtifactError(f"{path} does not fit its array ({error}): run notebook 01 again") from None
    if missing:
        raise artifacts.ArtifactError(
            f"{path} lacks {missing} photos, because notebook 01 was interrupted: run it again"
        )
    return features


Encoded = tuple[list[str], np.ndarray, dict[str, str]]
"""Names, their features (B, R, D), and the reason for each picture that cannot be read."""


def encode_pictures(
    encoder: Encoder, paths: Mapping[str, Path], batch_size: int, view: int, first: int
) -> Iterator[Encoded]:
    """Encode pictures in batches; ``first`` counts those before them, so that each is augmented in its own way."""
    encode = quantized_encoder(encoder)
    for good, images, failed in read_batches(paths, encoder.image_size, batch_size):
        if view:
            random = (np.random.default_rng([view, seed]) for seed in range(first, first + len(good)))
            images = np.array([augment(*pair) for pair in zip(images, random, strict=True)])
        yield good, encode(images) if good else images, failed
        first += len(good) + len(failed)


def extract_features(
    encoder: Encoder,
    image_paths: Mapping[str, Path],
    path: Path,
    batch_size: int = 32,
    view: int = 0,
    encode: Callable[[Encoder, Mapping[str, Path]], Iterator[Encoded]] | None = None,
) -> Features:
    """Encode every picture once and keep the result beside ``path``.

    Args:
        encoder: the encoder. A later run checks that its weights are the same.
        image_paths: image name → file.
        path: ``…/features.pkl``. The array is ``features.npy`` beside it: float16 (N, R, D). Rows are read when they
            are needed, so that it may be larger than memory.
        view: 0 for the photo itself, or the seed of a random augmentation (`captioning.training.augmentation`).
        encode: encodes pictures, in their order, instead of this process: `captioning.bulk.features.encode_on_ray`.

    An interrupted run continues where it stopped, and a finished one is not repeated, as long as encoder, names,
    their order and the sizes of the files are the same. A picture that cannot be read is left out and listed in
    ``Features.failed``.
    """
    path = Path(path)
    array_path = path.with_suffix(".npy")
    shape = (len(image_paths), encoder.regions, encoder.depth)
    fingerprint = {
        "bytes": file_sizes(image_paths),
        "encoder": [encoder.network, encoder.image_size],
        "weights": weights_checksum(encoder),
        "view": view,
    }
    index: dict[str, Any] = {"fingerprint": fingerprint, "array": array_path.name, "done": 0, "rows": {}, "failed": {}}
    if path.exists() and array_path.exists():
        old = artifacts.read_pickle(path)
        if old.get("fingerprint") == fingerprint and np.load(array_path, mmap_mode="r").shape == shape:
            index = old
    if index["done"] == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        np.lib.format.open_memmap(array_path, "w+", "float16", shape).flush()
        _reserve(array_path)
        artifacts.write_pickle(path, index)
    if index["done"] < len(image_paths):
        array = np.lib.format.open_memmap(array_path, "r+")
        paths = {name: image_paths[name] for name in list(image_paths)[index["done"] :]}
        batches = encode(encoder, paths) if encode else encode_pictures(encoder, paths, batch_size, view, index["done"])
        with tqdm(total=len(image_paths), initial=index["done"], desc="features", unit="image") as bar:
            for number, (good, features, failed) in enumerate(batches):
                if good:
                    rows = range(len(index["rows"]), len(index["rows"]) + len(good))
                    array[rows.start : rows.stop] = features
                    index["rows"].update(zip(good, rows, strict=True))
                index["failed"].update(failed)
                index["done"] += len(good) + len(failed)
                if number % 20 == 19 or index["done"] == len(image_paths):
                    array.flush()
                    artifacts.write_pickle(path, index)
                bar.update(len(good) + len(failed))
    return load_features(path)


def _reserve(path: Path) -> None:
    """Reserve the space of a file that has gaps: on a full disk, writing to its mapping would kill the process."""
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: the features need {size / 1e9:.1f} GB", str(path)) from None


def file_sizes(image_paths: Mapping[str, Path]) -> list[tuple[str, int | None]]:
    """Image name and size of the file in bytes, None if it is missing."""
    return [(name, file.stat().st_size if file.exists() else None) for name, file in image_paths.items()]


def sizes_checksum(sizes: list[tuple[str, int | None]]) -> int:
    """A number that changes with the names, their order and the sizes of the files."""
    return zlib.crc32(repr(sizes).encode())


def checksum(model: keras.Model) -> float:
    """A number that changes when the weights do. Its six digits ignore rounding, which depends on the processor."""
    return float(f"{sum(np.abs(ops.convert_to_numpy(w)).sum(dtype='float64') for w in model.weights):.6g}")


def sample_sum(features: Mapping[str, np.ndarray], names: Iterable[str]) -> float:
    """A number that changes when the features do, from those of the first ten images."""
    return float(sum(np.abs(features[name]).sum(dtype="float64") for name in islice(names, 10)))
