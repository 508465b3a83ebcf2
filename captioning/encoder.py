"""The encoder: photos → a grid of region features, by a network from `keras.applications`."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops
from tqdm import tqdm

from captioning import artifacts
from captioning.backend import quantized
from captioning.images import ImageError, distort, open_photo, resize_image


@dataclass(frozen=True)
class Network:
    """A network of `keras.applications`: its module, its class, the pixels a side it was made for, and the layer with
    which its later half begins."""

    module: str
    builder: str
    size: int
    later_half: str


ENCODERS = {
    "resnet50": Network("resnet50", "ResNet50", 224, "conv4_block1_1_conv"),  # He et al., 2015, arXiv:1512.03385
    "densenet201": Network("densenet", "DenseNet201", 224, "conv4_block1_0_bn"),  # Huang et al., 2016, arXiv:1608.06993
    "inceptionv3": Network("inception_v3", "InceptionV3", 299, "mixed3"),  # Szegedy et al., 2015, arXiv:1512.00567
    "xception": Network("xception", "Xception", 299, "block5_sepconv1"),  # Chollet, 2016, arXiv:1610.02357
}


class Encoder(keras.Model):
    """A convolutional network that turns photos into region features.

    Args:
        network: a name from `ENCODERS`.
        weights: ``"imagenet"`` (Keras downloads them), a ``.weights.h5`` file,
            or None for random ones.
        image_size: pixels a side; the network's own by default.
        precision: ``"mixed_bfloat16"`` computes in bfloat16 and keeps the weights
            in float32: training on a processor that knows it takes two thirds of the time.

    Input: (B, image_size, image_size, 3) RGB, 0 to 255, uint8 or float.
    Output: (B, R, D) float, R the regions of the grid, row by row (49 of 2048
    numbers for ``resnet50``). `pool` makes (B, D) of it.

    Raises:
        ValueError: the network is unknown, or the weights file does not fit it.

    >>> encoder = Encoder("resnet50", weights="imagenet")
    >>> encoder(np.zeros((1, 224, 224, 3), "uint8")).shape
    (1, 49, 2048)
    """

    def __init__(self, network: str = "resnet50", weights: str | Path | None = None, image_size: int | None = None,
                 precision: str = "float32"):
        super().__init__(name="encoder")
        if network not in ENCODERS:
            raise ValueError(f"unknown encoder {network!r}; known: {', '.join(ENCODERS)}")
        self.network = network
        self.image_size = image_size or ENCODERS[network].size
        module = importlib.import_module(f"keras.applications.{ENCODERS[network].module}")
        self._preprocess = module.preprocess_input
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            self.backbone = getattr(module, ENCODERS[network].builder)(
                include_top=False,
                weights=str(weights) if weights else None,
                input_shape=(self.image_size, self.image_size, 3),
            )
        finally:
            keras.config.set_dtype_policy(before)
        *_, rows, columns, self.depth = self.backbone.output_shape
        self.grid = (rows, columns)
        self.regions = rows * columns
        self._encode, self._making = None, threading.Lock()
        self.built = True  # all its weights are the backbone's

    def call(self, images):
        return self._features(self.backbone, images)

    def _features(self, network, images):
        # Batch normalisation keeps its trained statistics even while the weights are fine-tuned.
        maps = network(self._preprocess(ops.cast(images, "float32")), training=False)
        return ops.cast(ops.reshape(maps, (-1, self.regions, self.depth)), "float32")

    @property
    def encode(self) -> Callable:
        """``encode(images)``: the same as a call within 4 %, three times as fast; uint8 only.

        It is made at its first use from the weights of that moment.
        """
        with self._making:
            if self._encode is None:
                network = fold_batch_normalisation(self.backbone)
                shape = (self.image_size, self.image_size, 3)
                run = quantized(lambda images: (self._features(network, images),), shape, "uint8")
                self._encode = lambda images: run(images)[0]
            return self._encode

    def fix_first_half(self) -> None:
        """Fine-tuning changes the later half only: edges and textures are the same in all photos. A third faster."""
        names = [layer.name for layer in self.backbone.layers]
        for layer in self.backbone.layers[: names.index(ENCODERS[self.network].later_half)]:
            layer.trainable = False

    @staticmethod
    def pool(features):
        """(B, R, D) → (B, D): the mean over the regions."""
        return ops.mean(features, axis=1)

    def save(self, path: Path) -> None:
        """Write the backbone's weights, convolutions in float16 and the rest in float32.

        The file is one that ``keras.applications`` reads: half the size, the
        same output to 0.1 %. Batch normalisation is not halved: small
        variances do not survive it.
        """
        path = Path(path)
        full = path.with_name("full-" + path.name)
        self.backbone.save_weights(full)
        with h5py.File(full) as source, h5py.File(path, "w") as target:

            def copy(name, item):
                if isinstance(item, h5py.Dataset):
                    half = item.ndim >= 2
                    target.create_dataset(name, data=item[()].astype("float16" if half else "float32"))
                else:
                    target.require_group(name)
                for key, value in item.attrs.items():
                    target[name].attrs[key] = value

            source.visititems(copy)
        full.unlink()


def fold_batch_normalisation(network: keras.Model) -> keras.Model:
    """A copy for inference: convolutions do the work of the batch normalisation that follows them.

    Args:
        network: a functional model; normalisation in other places stays as it is.
    """
    makers = {id(layer.output): layer for layer in network.layers}
    uses = Counter(id(x) for layer in network.layers for x in keras.tree.flatten(layer.input))
    following = {}  # a convolution's name → the normalisation after it
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization) and uses[id(layer.input)] == 1:
            before = makers[id(layer.input)]
            if type(before) is layers.Conv2D:
                following[before.name] = layer
    folded = {norm.name for norm in following.values()}

    def copy(layer):
        config = layer.get_config() | {"dtype": "float32"}
        return type(layer).from_config(config | ({"use_bias": True} if layer.name in following else {}))

    def connect(layer, *arguments, **options):
        return arguments[0] if layer.name in folded else layer(*arguments, **options)

    faster = keras.models.clone_model(network, clone_function=copy, call_function=connect)
    for layer in filter(lambda layer: layer.weights, faster.layers):
        weights = [ops.convert_to_numpy(w).astype("float64") for w in network.get_layer(layer.name).weights]
        if norm := following.get(layer.name):
            kernel, bias = weights if len(weights) == 2 else (weights[0], 0.0)
            names = {w.name: ops.convert_to_numpy(w).astype("float64") for w in norm.weights}
            scale = names.get("gamma", 1.0) / np.sqrt(names["moving_variance"] + norm.epsilon)
            weights = [kernel * scale, (bias - names["moving_mean"]) * scale + names.get("beta", 0.0)]
        layer.set_weights(weights)
    return faster


def read_batches(paths: Mapping[str, Path], size: int, batch_size: int) -> Iterator[tuple[list, np.ndarray, dict]]:
    """Read pictures on other threads, a few batches ahead of whoever uses them.

    Yields (names, uint8 (B, size, size, 3), {name of an unreadable picture: why}).
    """

    def read(item):
        name, path = item
        try:
            return name, resize_image(open_photo(path, min_size=(size, size)), (size, size)), None
        except (ImageError, OSError) as error:
            return name, None, str(error)

    items = list(paths.items())
    with ThreadPoolExecutor(4) as pool:
        ahead = 4 * batch_size
        futures = [pool.submit(read, item) for item in items[:ahead]]
        for start in range(0, len(items), batch_size):
            results = [future.result() for future in futures[:batch_size]]
            futures = futures[batch_size:]
            futures += [pool.submit(read, item) for item in items[start + ahead : start + ahead + batch_size]]
            good = [(name, image) for name, image, _ in results if image is not None]
            images = np.stack([image for _, image in good]) if good else np.zeros((0, size, size, 3), np.uint8)
            yield [name for name, _ in good], images, {name: why for name, _, why in results if why}


class Features(Mapping):
    """Features by image name, memory-mapped from disk: ``features[name]`` is float16 (R, D).

    ``features.failed`` maps the pictures that could not be read to the reason.
    """

    def __init__(self, array: np.ndarray, rows: dict[str, int], failed: dict[str, str]):
        self.array, self.rows, self.failed = array, rows, failed

    def __getitem__(self, name: str) -> np.ndarray:
        return self.array[self.rows[name]]

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, names) -> np.ndarray:
        """float16 (B, R, D) of several images."""
        return self.array[[self.rows[name] for name in names]]


def load_features(path: Path) -> Features:
    """Open ``features.pkl`` and the array beside it. Raises ArtifactError if one is missing or does not fit."""
    path = Path(path)
    index = artifacts.read_pickle(path)
    try:
        array = np.load(path.with_name(index["array"]), mmap_mode="r", allow_pickle=False)
        return Features(array, index["rows"], index["failed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise artifacts.ArtifactError(f"{path} does not fit the array beside it ({error}): run notebook 01 again") from None


def extract_features(encoder: Encoder, image_paths: Mapping[str, Path], path: Path, batch_size: int = 32,
                     view: int = 0) -> Features:
    """Encode every picture once and keep the result beside ``path``.

    Args:
        encoder: the encoder; its weights are part of what a later run checks.
        image_paths: image name → file.
        path: ``…/features.pkl``; the array goes beside it as ``features.npy``,
            float16 (N, R, D), written through a memory map, so memory stays small.
        view: 0 is the photo as it is; any other number a random distortion of it (`captioning.images.distort`), another
            for each number.

    An interrupted run goes on where it stopped, and a finished one is not
    repeated, as long as the pictures and the encoder are the same. A picture
    that cannot be read is reported in ``Features.failed`` and left out.
    """
    path = Path(path)
    array_path = path.with_suffix(".npy")
    shape = (len(image_paths), encoder.regions, encoder.depth)
    fingerprint = {"names": list(image_paths), "encoder": encoder.network, "weights": checksum(encoder), "view": view}
    index = {"fingerprint": fingerprint, "array": array_path.name, "done": 0, "rows": {}, "failed": {}}
    if path.exists() and array_path.exists():
        old = artifacts.read_pickle(path)
        if old.get("fingerprint") == fingerprint and np.load(array_path, mmap_mode="r").shape == shape:
            index = old
    if index["done"] == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(array_path, "w+", "float16", shape).flush()
        artifacts.write_pickle(path, index)
    if index["done"] < len(image_paths):
        array = np.lib.format.open_memmap(array_path, "r+")
        names = list(image_paths)[index["done"] :]
        batches = read_batches({name: image_paths[name] for name in names}, encoder.image_size, batch_size)
        with tqdm(total=len(image_paths), initial=index["done"], desc="features", unit="image") as bar:
            for number, (good, images, failed) in enumerate(batches):
                if view:
                    seeds = range(index["done"], index["done"] + len(good))
                    images = np.array([distort(x, np.random.default_rng([view, seed])) for x, seed in zip(images, seeds)])
                if good:
                    rows = range(len(index["rows"]), len(index["rows"]) + len(good))
                    array[rows.start : rows.stop] = ops.convert_to_numpy(encoder.encode(images))
                    index["rows"].update(zip(good, rows))
                index["failed"].update(failed)
                index["done"] += len(good) + len(failed)
                if number % 20 == 19 or index["done"] == len(image_paths):
                    array.flush()
                    artifacts.write_pickle(path, index)
                bar.update(len(good) + len(failed))
    return load_features(path)


def checksum(model: keras.Model) -> float:
    """A number that changes when the weights do."""
    return float(sum(np.abs(ops.convert_to_numpy(w)).sum(dtype="float64") for w in model.weights))
