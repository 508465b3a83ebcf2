"""The encoder: photos → a grid of region features, by a network from `keras.applications`."""

from __future__ import annotations

import importlib
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops

from captioning.network.backend import dtype_policy


@dataclass(frozen=True)
class Network:
    """A network of `keras.applications`: its module, its class, its usual image size (pixels per side), and the first
    layer that fine-tuning changes."""

    module: str
    builder: str
    size: int
    fine_tune_from: str


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
        image_size: pixels per side; the network's usual size by default.
        precision: ``"mixed_bfloat16"`` computes in bfloat16 and keeps the weights in float32. With bfloat16
            instructions, training takes two thirds of the time.

    Input: (B, image_size, image_size, 3) RGB, 0 to 255, uint8 or float.
    Output: features (B, R, D) float32, the cells of the last layer's grid row by row (49 × 2048 for ``resnet50``). They
    are called regions here.

    Raises:
        ValueError: the network is unknown, or the weights file does not fit it.

    >>> encoder = Encoder("resnet50", weights="imagenet")
    >>> encoder(np.zeros((1, 224, 224, 3), "uint8")).shape
    (1, 49, 2048)
    """

    def __init__(
        self,
        network: str = "resnet50",
        weights: str | Path | None = None,
        image_size: int | None = None,
        precision: str = "float32",
    ):
        super().__init__(name="encoder")
        if network not in ENCODERS:
            raise ValueError(f"unknown encoder {network!r}; known: {', '.join(ENCODERS)}")
        self.network = network
        self.image_size = image_size or ENCODERS[network].size
        module = importlib.import_module(f"keras.applications.{ENCODERS[network].module}")
        self._preprocess = module.preprocess_input
        try:
            with dtype_policy(precision):
                self.backbone = getattr(module, ENCODERS[network].builder)(
                    include_top=False,
                    weights=str(weights) if weights else None,
                    input_shape=(self.image_size, self.image_size, 3),
                )
        except Exception as error:  # Keras raises many kinds
            raise ValueError(
                f"{network} cannot be built for {self.image_size} pixels with the weights {str(weights)!r}: {error}\n"
                "If the weights are the reason, use a file of this network (.weights.h5, or Keras's own …_notop.h5), "
                "such as artifacts/encoder.weights.h5 for resnet50"
            ) from error
        *_, rows, columns, self.depth = self.backbone.output_shape
        self.grid = (rows, columns)
        self.regions = rows * columns
        self.built = True  # all its weights belong to the backbone

    def call(self, images):
        return self.features(self.backbone, images)

    def features(self, backbone, images):
        """The features (B, R, D) float32 of images by ``backbone`` or a copy of it."""
        # Batch normalisation keeps its statistics, also while the weights are fine-tuned.
        maps = backbone(self._preprocess(ops.cast(images, "float32")), training=False)
        return ops.cast(ops.reshape(maps, (-1, self.regions, self.depth)), "float32")

    def freeze_first_half(self) -> None:
        """Keep the first half fixed: its edges and textures are the same in all photos.

        Fine-tuning then takes two thirds of the time.
        """
        names = [layer.name for layer in self.backbone.layers]
        for layer in self.backbone.layers[: names.index(ENCODERS[self.network].fine_tune_from)]:
            layer.trainable = False

    def save(self, path: Path) -> None:
        """Write the backbone's weights, convolutions in float16 and the rest in float32.

        ``keras.applications`` can read the file. It has half the size, and the output changes by 0.1 %. Batch
        normalisation stays in float32, because float16 would lose small variances.
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
    """A copy for inference, with batch normalisation folded into the convolutions before it.

    Args:
        network: a functional model. Normalisation in other places is kept.
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


def weights_checksum(model: keras.Model) -> int:
    """A number that changes with any bit of the weights."""
    checksum = 0
    for weight in model.weights:
        checksum = zlib.crc32(ops.convert_to_numpy(weight).tobytes(), checksum)
    return checksum
