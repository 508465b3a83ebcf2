"""Encoders for tests."""

import keras
import numpy as np

from captioning.network.encoder import Encoder, Network

MOBILENET = Network("mobilenet", "MobileNet", 64, "conv_pw_6")


def tiny_encoder():
    """A MobileNet for pictures of 64 pixels, with random weights under which its output depends on the picture."""
    encoder = Encoder("mobilenet", image_size=64)
    random = np.random.default_rng(0)
    for layer in encoder.backbone.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            shape = layer.get_weights()[0].shape
            inputs = np.prod(shape[:2] if isinstance(layer, keras.layers.DepthwiseConv2D) else shape[:3])
            kernel = random.normal(0, np.sqrt(2 / inputs), shape)
            layer.set_weights([kernel.astype("float16")])  # as it is saved
    return randomise_normalisation(encoder)


def randomise_normalisation(encoder):
    """Give the batch normalisation random weights: untrained, it changes nothing."""
    random = np.random.default_rng(0)
    for layer in encoder.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([w * random.uniform(0.8, 1.2, w.shape) + 0.01 for w in layer.get_weights()])
    return encoder


def check_quantized(encoder, encode, tolerance):
    """``encode`` gives nearly the features of the encoder, and for each picture those that it gives to it alone."""
    images = np.random.default_rng(0).integers(0, 256, (2, encoder.image_size, encoder.image_size, 3), "uint8")
    expected, fast = np.asarray(encoder(images)), encode(images)
    assert np.abs(fast - expected).mean() < tolerance * np.abs(expected).mean()
    assert fast.dtype == "float32" and expected.std() > 0
    np.testing.assert_array_equal(encode(images[1:])[0], fast[1])
