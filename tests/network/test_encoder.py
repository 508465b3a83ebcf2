import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from captioning import encoder as encoder_module
from captioning.artifacts import ArtifactError
from captioning.network.backend import PROCESSORS, in_groups, on_each_processor
from captioning.encoder import (
    ENCODERS,
    Encoder,
    extract_features,
    fold_batch_normalisation,
    load_features,
    read_batches,
)

SIZE = 64


@pytest.fixture(scope="module")
def encoder():
    return Encoder("resnet50", image_size=SIZE)


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures, one of them broken."""
    random = np.random.default_rng(0)
    paths = {}
    for i in range(7):
        paths[f"{i}.jpg"] = tmp_path / f"{i}.jpg"
        Image.fromarray(random.integers(0, 255, (40 + i, 50, 3), "uint8")).save(paths[f"{i}.jpg"])
    paths["3.jpg"].write_bytes(paths["3.jpg"].read_bytes()[:100])
    return paths


@pytest.mark.parametrize(("name", "size", "grid", "depth"), [
    ("resnet50", 224, (7, 7), 2048),
    ("densenet201", 224, (7, 7), 1920),
    ("inceptionv3", 299, (8, 8), 2048),
    ("xception", 299, (10, 10), 2048),
])  # fmt: skip
def test_every_network_has_its_size_and_grid(name, size, grid, depth):
    encoder = Encoder(name)
    assert (encoder.image_size, encoder.grid, encoder.depth) == (size, grid, depth)


@pytest.mark.parametrize(
    ("name", "range_"), [("densenet201", (-3, 3)), ("inceptionv3", (-1, 1)), ("xception", (-1, 1))]
)
def test_every_network_has_its_own_preprocessing(name, range_):
    pixels = np.array([[[[0, 0, 0], [255, 255, 255]]]], "float32")
    prepared = np.asarray(Encoder(name)._preprocess(pixels))
    assert range_[0] <= prepared.min() < 0 < prepared.max() <= range_[1]


def test_preprocessing_is_the_networks_own(encoder):
    image = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), "uint8")
    prepared = keras.applications.resnet50.preprocess_input(image.astype("float32"))
    expected = np.asarray(encoder.backbone(prepared, training=False)).reshape(1, -1, 2048)
    np.testing.assert_allclose(np.asarray(encoder(image)), expected, rtol=1e-4, atol=1e-4)


def lively(network, size=SIZE):
    """An encoder with random weights whose batch normalisation does something."""
    encoder = Encoder(network, image_size=size)
    random = np.random.default_rng(0)
    for layer in encoder.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([w * random.uniform(0.8, 1.2, w.shape) + 0.01 for w in layer.get_weights()])
    return encoder


@pytest.mark.parametrize("network", ENCODERS)
def test_the_fast_way_gives_the_same_features(network):
    encoder = lively(network, max(SIZE, 75))
    images = np.random.default_rng(0).integers(0, 256, (2, encoder.image_size, encoder.image_size, 3), "uint8")
    expected, fast = np.asarray(encoder(images)), np.asarray(encoder.encode(images))
    assert np.abs(fast - expected).mean() < 0.05 * np.abs(expected).mean()
    assert fast.dtype == "float32" and expected.std() > 0
    np.testing.assert_array_equal(encoder.encode(images[1:])[0], fast[1])


def test_folding_leaves_no_normalisation_and_changes_nothing(encoder):
    network = fold_batch_normalisation(encoder.backbone)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
    assert len(encoder.weights) == len(encoder.backbone.weights), "it is no part of the model"
    images = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_allclose(network(images), encoder.backbone(images), rtol=1e-3, atol=1e-4)


def test_weights_are_halved_and_still_the_same(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.weights.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.weights.h5"]
    again = Encoder("resnet50", tmp_path / "encoder.weights.h5", SIZE)
    image = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), "uint8")
    assert Encoder.pool(again.encode(image)).shape == (1, 2048)
    before, after = np.asarray(encoder(image)), np.asarray(again(image))
    assert np.abs(after - before).mean() < 0.01 * np.abs(before).mean()
    with h5py.File(tmp_path / "encoder.weights.h5") as file:
        kinds = set()
        file.visititems(lambda _, x: kinds.add((x.ndim >= 2, x.dtype.name)) if isinstance(x, h5py.Dataset) else None)
    assert kinds == {(True, "float16"), (False, "float32")}


def test_unknown_network_names_the_known_ones():
    with pytest.raises(ValueError, match="vgg.*" + ".*".join(ENCODERS)):
        Encoder("vgg")


def test_broken_pictures_do_not_stop_the_reading(pictures):
    batches = list(read_batches(pictures, SIZE, 3))
    assert [names for names, _, _ in batches] == [["0.jpg", "1.jpg", "2.jpg"], ["4.jpg", "5.jpg"], ["6.jpg"]]
    assert [images.shape[0] for _, images, _ in batches] == [3, 2, 1]
    assert "3.jpg" in batches[1][2]


def test_features_are_those_of_single_pictures(encoder, pictures, tmp_path):
    features = extract_features(encoder, pictures, tmp_path / "features.pkl", batch_size=3)
    assert list(features.failed) == ["3.jpg"] and len(features) == 6 and "3.jpg" not in features
    names, images, _ = next(read_batches({"5.jpg": pictures["5.jpg"]}, SIZE, 1))
    assert features["5.jpg"].dtype == "float16"
    np.testing.assert_allclose(features["5.jpg"], np.asarray(encoder.encode(images))[0], rtol=1e-2, atol=1e-3)
    np.testing.assert_array_equal(features.batch(["6.jpg", "0.jpg"])[1], features["0.jpg"])


def test_a_view_is_a_crop_that_is_the_same_each_time(encoder, pictures, tmp_path):
    whole, first, again, second = (
        extract_features(encoder, pictures, tmp_path / f"{i}.pkl", batch_size, view=view)
        for i, (view, batch_size) in enumerate([(0, 3), (1, 3), (1, 3), (2, 3)])
    )
    np.testing.assert_array_equal(first["5.jpg"], again["5.jpg"])
    assert list(first) == list(whole)
    for one, other in ((whole, first), (first, second)):
        assert (one["5.jpg"] != other["5.jpg"]).any()
    before = first["5.jpg"].copy()
    changed = extract_features(encoder, pictures, tmp_path / "1.pkl", view=3)
    assert (changed["5.jpg"] != before).any(), "another view is not taken for the one that is there"


@pytest.mark.parametrize("network", ENCODERS)
def test_fine_tuning_can_leave_the_first_half_as_it_is(network):
    encoder = Encoder(network, image_size=96)
    encoder.fix_first_half()
    trained = [layer.trainable for layer in encoder.backbone.layers]
    assert not any(trained[: len(trained) // 6]) and all(trained[len(trained) // 2 :])
    assert 0.5 < sum(w.shape.num_elements() for w in encoder.trainable_variables) / encoder.count_params() < 0.99


def test_an_interrupted_extraction_goes_on(encoder, pictures, tmp_path, monkeypatch):
    whole = extract_features(encoder, pictures, tmp_path / "whole.pkl", batch_size=1)
    read = encoder_module.read_batches

    def interrupted(paths, *arguments):
        for number, batch in enumerate(read(paths, *arguments)):
            if number == 22:
                raise KeyboardInterrupt
            yield batch

    many = {f"{n}-{i}": path for i in range(4) for n, path in pictures.items()}
    monkeypatch.setattr(encoder_module, "read_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, many, tmp_path / "features.pkl", batch_size=1)
    seen = []
    monkeypatch.setattr(encoder_module, "read_batches", lambda paths, *a: seen.extend(paths) or read(paths, *a))
    features = extract_features(encoder, many, tmp_path / "features.pkl", batch_size=1)
    assert len(seen) == len(many) - 20
    assert len(features) == 24 and len(features.failed) == 4
    for name in whole:
        for i in range(4):
            np.testing.assert_array_equal(features[f"{name}-{i}"], whole[name])
    seen.clear()
    extract_features(encoder, many, tmp_path / "features.pkl")
    assert not seen, "a finished extraction is not repeated"


def test_features_without_their_array(encoder, pictures, tmp_path):
    extract_features(encoder, pictures, tmp_path / "features.pkl")
    (tmp_path / "features.npy").unlink()
    with pytest.raises(ArtifactError, match="features.pkl"):
        load_features(tmp_path / "features.pkl")


@pytest.mark.parametrize("number", [0, 1, 2, 5, 16, 257])
def test_groups_are_full_and_even(number):
    groups = in_groups(range(number), 5)
    assert [item for group in groups for item in group] == list(range(number))
    assert {len(group) for group in groups} <= {1, 5}
    assert sum(len(group) == 5 for group in groups) % PROCESSORS == 0, "each processor has the same"
    nested = next(on_each_processor(lambda _: in_groups(range(number), 5), [0, 0]))
    assert len(nested) == number // 5 + number % 5, "in there, no processor is left to share with"


def test_several_photos_are_encoded_side_by_side(encoder):
    """In `on_each_processor` too, where each keeps to one processor."""
    photos = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    together = encoder.encode(photos)
    one_by_one = np.concatenate([encoder.encode(photos[i : i + 1]) for i in range(5)])
    in_threads = np.concatenate(list(on_each_processor(encoder.encode, [photos[i : i + 1] for i in range(5)])))
    assert together.shape == (5, encoder.regions, encoder.depth)
    assert together == pytest.approx(one_by_one, abs=1e-3) and in_threads == pytest.approx(one_by_one, abs=1e-3)
    assert list(on_each_processor(lambda n: sum(on_each_processor(int, range(n))), [3, 4])) == [
        3,
        6,
    ]  # nested: no deadlock
