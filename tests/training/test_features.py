"""Features of all pictures of a data set.

Slow: it converts an encoder.
"""

import errno
import os

import numpy as np
import pytest

from captioning.artifacts import ArtifactError
from captioning.network.encoder import weights_checksum
from captioning.training import features as features_module
from captioning.training.features import extract_features, load_features
from captioning.training.reading import read_batches

pytestmark = pytest.mark.slow

SIZE = 64


@pytest.fixture
def encoder(tiny_encoder, tiny_encode, monkeypatch):
    """It is not converted again in each test."""
    monkeypatch.setattr(features_module, "quantized_encoder", lambda _: tiny_encode)
    return tiny_encoder


def test_features_are_those_of_single_pictures(encoder, tiny_encode, pictures, tmp_path):
    features = extract_features(encoder, pictures, tmp_path / "features.pkl", batch_size=3)
    assert list(features.failed) == ["3.jpg"] and len(features) == 6 and "3.jpg" not in features
    _, images, _ = next(read_batches({"5.jpg": pictures["5.jpg"]}, SIZE, 1))
    expected = tiny_encode(images)[0]
    assert features["5.jpg"].dtype == "float16"
    np.testing.assert_allclose(features["5.jpg"], expected, rtol=1e-2, atol=1e-3)
    np.testing.assert_array_equal(features.batch(["6.jpg", "0.jpg"])[1], features["0.jpg"])


def test_features_of_some_photos_only_are_refused(encoder, pictures, tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield next(read_batches(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(features_module, "read_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, pictures, tmp_path / "features.pkl", batch_size=2)
    with pytest.raises(ArtifactError, match="lacks 7 photos"):
        load_features(tmp_path / "features.pkl")


def test_a_full_disk_is_an_error(encoder, pictures, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: the features need 0\.0 GB: .*features.npy"):
        extract_features(encoder, pictures, tmp_path / "features.pkl")
    assert not (tmp_path / "features.pkl").exists()


def test_a_view_is_augmented_in_the_same_way_each_time(encoder, pictures, tmp_path):
    whole, first, again, second = (
        extract_features(encoder, pictures, tmp_path / f"{i}.pkl", 3, view=view) for i, view in enumerate([0, 1, 1, 2])
    )
    np.testing.assert_array_equal(first["5.jpg"], again["5.jpg"])
    assert list(first) == list(whole)
    for one, other in ((whole, first), (first, second)):
        assert (one["5.jpg"] != other["5.jpg"]).any()
    before = first["5.jpg"].copy()
    changed = extract_features(encoder, pictures, tmp_path / "1.pkl", view=3)
    assert (changed["5.jpg"] != before).any(), "features of another view are not used again"


def test_an_interrupted_extraction_goes_on(encoder, pictures, tmp_path, monkeypatch):
    whole = extract_features(encoder, pictures, tmp_path / "whole.pkl", batch_size=1)

    def interrupted(paths, *arguments):
        for number, batch in enumerate(read_batches(paths, *arguments)):
            if number == 22:
                raise KeyboardInterrupt
            yield batch

    many = {f"{n}-{i}": path for i in range(4) for n, path in pictures.items()}
    monkeypatch.setattr(features_module, "read_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, many, tmp_path / "features.pkl", batch_size=1)
    read = []
    monkeypatch.setattr(
        features_module, "read_batches", lambda paths, *a: read.extend(paths) or read_batches(paths, *a)
    )
    features = extract_features(encoder, many, tmp_path / "features.pkl", batch_size=1)
    assert len(read) == len(many) - 20
    assert len(features) == 24 and len(features.failed) == 4
    for name in whole:
        for i in range(4):
            np.testing.assert_array_equal(features[f"{name}-{i}"], whole[name])
    read.clear()
    extract_features(encoder, many, tmp_path / "features.pkl")
    assert not read, "a finished extraction is not repeated"
    extract_features(encoder, dict(reversed(many.items())), tmp_path / "features.pkl")
    assert len(read) == len(many), "an extraction of another order does not go on with these rows"


def test_a_mended_picture_is_encoded(encoder, pictures, tmp_path):
    assert list(extract_features(encoder, pictures, tmp_path / "features.pkl").failed) == ["3.jpg"]
    pictures["3.jpg"].write_bytes(pictures["5.jpg"].read_bytes())
    features = extract_features(encoder, pictures, tmp_path / "features.pkl")
    assert not features.failed
    np.testing.assert_array_equal(features["3.jpg"], features["5.jpg"])


def test_a_small_change_of_the_weights_counts(tiny_encoder):
    before, bias = weights_checksum(tiny_encoder), tiny_encoder.weights[1]
    values = bias.numpy()
    bias.assign(np.nextafter(values, np.inf))
    assert weights_checksum(tiny_encoder) != before
    bias.assign(values)
    assert weights_checksum(tiny_encoder) == before


def test_features_without_their_array(encoder, pictures, tmp_path):
    extract_features(encoder, pictures, tmp_path / "features.pkl")
    (tmp_path / "features.npy").unlink()
    with pytest.raises(ArtifactError, match="features.pkl"):
        load_features(tmp_path / "features.pkl")
