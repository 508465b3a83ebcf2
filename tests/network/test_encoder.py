"""The encoder, with random weights.

Slow: it builds networks with TensorFlow.
"""

import h5py
import keras
import numpy as np
import pytest
from encoders import check_quantized

from captioning.network import backend
from captioning.network.encoder import ENCODERS, Encoder, fold_batch_normalisation

pytestmark = pytest.mark.slow

SIZE = 64


@pytest.fixture(scope="module", params=["mobilenet", "resnet50"])
def encoder(request, tiny_encoder):
    """Slow for the large network."""
    return tiny_encoder if request.param == "mobilenet" else Encoder("resnet50", image_size=SIZE)


@pytest.mark.parametrize(("name", "size", "grid", "depth", "range_"), [
    ("resnet50", 224, (7, 7), 2048, (-124, 152)),
    ("densenet201", 224, (7, 7), 1920, (-3, 3)),
    ("inceptionv3", 299, (8, 8), 2048, (-1, 1)),
    ("xception", 299, (10, 10), 2048, (-1, 1)),
])  # fmt: skip
def test_every_network(name, size, grid, depth, range_):
    """Its size, grid and preprocessing, and the part that fine-tuning trains. Slow: it builds a large network."""
    encoder = Encoder(name)
    assert (encoder.image_size, encoder.grid, encoder.depth) == (size, grid, depth)
    prepared = np.asarray(encoder._preprocess(np.array([[[[0, 0, 0], [255, 255, 255]]]], "float32")))
    assert range_[0] <= prepared.min() < 0 < prepared.max() <= range_[1]
    check_fine_tuning_without_the_first_half(encoder)


def test_preprocessing_is_that_of_the_network(encoder):
    image = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), "uint8")
    prepared = getattr(keras.applications, encoder.network).preprocess_input(image.astype("float32"))
    expected = np.asarray(encoder.backbone(prepared, training=False)).reshape(1, -1, encoder.depth)
    np.testing.assert_allclose(np.asarray(encoder(image)), expected, rtol=1e-4, atol=1e-4)


def test_the_quantized_encoder_gives_nearly_the_same_features(tiny_encoder, tiny_encode):
    """test_notebooks_encoders.py compares those of large networks."""
    check_quantized(tiny_encoder, tiny_encode, 0.08)


def test_folding_leaves_no_normalisation_after_a_convolution_and_changes_nothing(encoder):
    network = fold_batch_normalisation(encoder.backbone)
    left = [layer.name for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all("dw" in name for name in left), "only depthwise convolutions, which ResNet50 has none of, keep theirs"
    assert len(encoder.weights) == len(encoder.backbone.weights), "the copy is no part of the model"
    images = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_allclose(network(images), encoder.backbone(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("encoder", ["mobilenet"], indirect=True)
def test_weights_are_saved_in_half_precision(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.weights.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.weights.h5"]
    again = Encoder(encoder.network, tmp_path / "encoder.weights.h5", SIZE)
    image = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), "uint8")
    before, after = np.asarray(encoder(image)), np.asarray(again(image))
    assert np.abs(after - before).mean() < 0.01 * np.abs(before).mean()
    with h5py.File(tmp_path / "encoder.weights.h5") as file:
        kinds = set()
        file.visititems(lambda _, x: kinds.add((x.ndim >= 2, x.dtype.name)) if isinstance(x, h5py.Dataset) else None)
    assert kinds == {(True, "float16"), (False, "float32")}


def test_unknown_network_names_the_known_ones():
    with pytest.raises(ValueError, match="vgg.*" + ".*".join(ENCODERS)):
        Encoder("vgg")


def test_weights_of_another_network_are_named_with_a_remedy(tmp_path):
    (tmp_path / "a.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"a\.weights\.h5.*\n.*for resnet50"):
        Encoder("resnet50", tmp_path / "a.weights.h5", SIZE)


@pytest.mark.parametrize("processor", ["mixed_bfloat16", "float32"])
def test_a_run_keeps_its_precision_on_another_processor(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "training_precision", lambda: processor)
    assert backend.precision_of_run("", tmp_path) == processor
    monkeypatch.setattr(backend, "training_precision", lambda: "another")
    assert backend.precision_of_run("", tmp_path) == processor
    assert backend.precision_of_run("float32", tmp_path) == "float32"
    assert backend.precision_of_run("", tmp_path) == "float32"
    with pytest.raises(ValueError, match="must be float32 or mixed_bfloat16"):
        backend.precision_of_run("bfloat16", tmp_path)


def check_fine_tuning_without_the_first_half(encoder):
    encoder.freeze_first_half()
    trained = [layer.trainable for layer in encoder.backbone.layers]
    assert not any(trained[: len(trained) // 6]) and all(trained[len(trained) // 2 :])
    assert 0.5 < sum(w.shape.num_elements() for w in encoder.trainable_variables) / encoder.count_params() < 0.99
