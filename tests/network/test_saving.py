"""Save and load the Keras models of a folder."""

import shutil

import numpy as np
import pytest
from keras import ops

from captioning.artifacts import EXPORTED, ArtifactError, read_pickle, write_manifest, write_pickle
from captioning.network.decoder import build_decoder
from captioning.network.saving import load_model, save_model
from captioning.text import Tokenizer

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.fixture
def folder(keras_folder, tmp_path):
    return shutil.copytree(keras_folder, tmp_path / "artifacts")


def test_a_saved_model_can_be_loaded(folder, tiny_encoder):
    encoder, decoder, tokenizer, config = load_model(folder)
    assert config["decoder"] == decoder.name == "attention"
    assert config["encoder"] == encoder.network == "mobilenet"
    assert set(tokenizer.words(range(len(tokenizer)))) <= {"a", "dog", "runs"}
    before, after = (ops.convert_to_numpy(e(PICTURES)) for e in (tiny_encoder, encoder))
    assert np.abs(after - before).mean() < 0.02 * np.abs(before).mean()
    assert read_pickle(folder / "history.pkl") == {"loss": [1.0]}


def test_saving_deletes_what_was_exported_from_earlier_weights(folder):
    for name in EXPORTED:
        (folder / name).write_bytes(b"old")
    encoder, decoder, tokenizer, config = load_model(folder)
    save_model(folder, encoder, decoder, tokenizer, {"loss": [0.5]}, config)
    assert not any((folder / name).exists() for name in EXPORTED)
    load_model(folder)


def test_files_of_two_models(folder, tiny_encoder, tmp_path):
    tokenizer = Tokenizer.fit(["a black cat sleeps all day"], 1)
    write_pickle(folder / "tokenizer.pkl", tokenizer.to_dict())
    with pytest.raises(ArtifactError, match="tokenizer.pkl"):
        load_model(folder)
    write_manifest(folder)  # also with a manifest that lists the other file
    with pytest.raises(ArtifactError, match="config.pkl .* different sizes"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.keras", "encoder.weights.h5", "tokenizer.pkl", "config.pkl"])
def test_foreign_file_that_the_manifest_lists(folder, name):
    (folder / name).write_bytes(b"something else altogether")
    write_manifest(folder)
    with pytest.raises(ArtifactError, match=name):
        load_model(folder)


def test_a_config_without_what_the_search_needs(folder):
    config = read_pickle(folder / "config.pkl")
    write_pickle(folder / "config.pkl", {key: value for key, value in config.items() if key != "max_length"})
    write_manifest(folder)
    with pytest.raises(ArtifactError, match="config.pkl .*max_length"):
        load_model(folder)


def test_a_decoder_for_another_grid(folder):
    _, _, tokenizer, _ = load_model(folder)
    build_decoder("attention", len(tokenizer), 9, 6, units=8).save(folder / "model.keras")
    write_manifest(folder)
    with pytest.raises(ArtifactError, match="different sizes"):
        load_model(folder)
