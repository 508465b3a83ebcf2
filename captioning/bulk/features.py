"""The features of a data set (`captioning.training.features`), encoded on Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError

from captioning.bulk import AGAIN, BulkError
from captioning.bulk.run import connect, last_line
from captioning.exported import encoder_of

if TYPE_CHECKING:
    from captioning.network.encoder import Encoder
    from captioning.training.features import Encoded, Features

BATCH = 32  # photos; their features take 6 MB


class PictureEncoder:
    """Encodes batches of photos; its processor cores are those that Ray gives it.

    Args:
        model: a reference to the exported encoder.
        size: of its images, pixels per side.
    """

    def __init__(self, model: ray.ObjectRef, size: int):
        self.encode, self.size = encoder_of(ray.get(model)), size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        from captioning.training.reading import read_batches

        paths = {name: Path(path) for name, path in zip(batch["name"], batch["path"], strict=True)}
        if absent := [path for path in paths.values() if not path.exists()]:
            raise BulkError(f"there is no {absent[0]} on one of the machines: use a shared folder")
        ((good, images, failed),) = read_batches(paths, self.size, len(paths))
        blank = np.zeros((1, self.size, self.size, 3), np.uint8)  # so that features have their shape
        features = self.encode(np.concatenate([images, blank])).astype("float16")
        row = {name: i for i, name in enumerate(good)}
        return {
            "name": batch["name"],
            "error": [failed.get(name, "") for name in paths],
            "features": features[[row.get(name, -1) for name in paths]],
        }


def encode_on_ray(encoder: Encoder, paths: Mapping[str, Path], address: str | None = None) -> Iterator[Encoded]:
    """Encode photos in their order.

    Args:
        address: as for `captioning.bulk.run.Run`.

    Raises:
        BulkError: the cluster does not answer, or an actor cannot work.
    """
    from captioning.network.export import convert_encoder

    cores, actors = connect(address)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    photos = [{"name": name, "path": os.path.abspath(path)} for name, path in paths.items()]
    encoded = ray.data.from_items(photos, override_num_blocks=-(-len(photos) // BATCH)).map_batches(
        PictureEncoder,
        fn_constructor_kwargs={"model": ray.put(convert_encoder(encoder)), "size": encoder.image_size},
        batch_size=None,
        num_cpus=cores,
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=actors, max_size=actors),
    )
    try:
        for batch in encoded.iter_batches(batch_size=None):
            good = batch["error"] == ""
            names, errors = batch["name"].tolist(), batch["error"].tolist()
            failed = {name: error for name, error in zip(names, errors, strict=True) if error}
            yield [name for name in names if name not in failed], batch["features"][good], failed
    except (RayError, ValueError) as error:
        raise BulkError(f"{last_line(error)}. {AGAIN}") from error


def extract(folders: Sequence[str], output: Path, address: str | None = None) -> Features:
    """Encode all photos of a data set by the ResNet50 of notebook 01.

    Args:
        output: the artifacts folder.
        address: as for `encode_on_ray`.

    Raises:
        BulkError: as for `encode_on_ray`.
        DatasetError: the folder holds no data set.
    """
    from captioning.network.encoder import Encoder
    from captioning.training.datasets import load_dataset
    from captioning.training.features import extract_features

    if len(folders) != 1:
        raise BulkError("--features takes one data set")
    dataset = load_dataset(folders[0])
    encoder = Encoder("resnet50", os.environ.get("ENCODER_WEIGHTS") or "imagenet")
    encode = functools.partial(encode_on_ray, address=address)
    return extract_features(encoder, dataset.image_paths, output / "features.pkl", encode=encode)
