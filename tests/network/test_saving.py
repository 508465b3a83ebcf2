"""Save and load the Keras models of a folder.

Slow: it builds models with TensorFlow.
"""

import shutil

import keras
import numpy as np
import pytest
from keras import ops

from captioning.artifacts import EXPORTED, ArtifactError, read_pickle, write_manifest, write_pickle
from captioning.network.multilingual import MultilingualDecoder
from captioning.network.saving import load_model, save_model
from captioning.text import Tokenizer

pytestmark = pytest.mark.slow

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.fixture
def folder(keras_folder, tmp_path):
    return shutil.copytree(keras_folder, tmp_path / "artifacts")


def test_a_saved_model_can_be_loaded(folder, tiny_encoder):
    """The languages share the layers of the first one."""
    encoder, decoders, tokenizers, config = load_model(folder)
    assert config["decoder"] == decoders["en"].name == "attention"
    assert config["encoder"] == encoder.network == "mobilenet"
    assert set(tokenizers["en"].words(range(len(tokenizers["en"])))) <= {"a", "dog", "runs"}
    before, after = (ops.convert_to_numpy(e(PICTURES)) for e in (tiny_encoder, encoder))
    assert np.abs(after - before).mean() < 0.02 * np.abs(before).mean()
    assert read_pickle(folder / "history.pkl") == {"loss": [1.0]}
    assert list(decoders) == list(tokenizers) == ["en", "de"]
    english, german = decoders.values()
    assert german.attention_lstm is english.attention_lstm
    assert german.embedding.embeddings.shape == (len(tokenizers["de"]), 8)
    assert english.embedding.embeddings.shape == (len(tokenizers["en"]), 8)


def test_saving_rounds_decoders_to_float16_and_deletes_what_was_exported(folder):
    for name in EXPORTED:
        (folder / name).write_bytes(b"made from earlier weights")
    encoder, decoders, tokenizers, config = load_model(folder)
    values = np.random.default_rng(0).normal(size=decoders["de"].embedding.embeddings.shape).astype("float32")
    decoders["de"].embedding.set_weights([values])
    save_model(folder, encoder, decoders, tokenizers, {"loss": [0.5]}, config)
    assert not any((folder / name).exists() for name in EXPORTED)
    _, again, _, _ = load_model(folder)
    np.testing.assert_array_equal(again["de"].embedding.get_weights()[0], values.astype("float16"))
    for before, after in zip(decoders["en"].get_weights(), again["en"].get_weights(), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-3)


def test_an_interruption_leaves_the_old_model(folder, monkeypatch):
    encoder, decoders, tokenizers, config = load_model(folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.saving, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, encoder, decoders, tokenizers, {"loss": [0.5]}, config)
    load_model(folder)
    assert read_pickle(folder / "history.pkl") == {"loss": [1.0]}


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
    _, _, tokenizers, _ = load_model(folder)
    sizes = {language: len(tokenizer) for language, tokenizer in tokenizers.items()}
    MultilingualDecoder("attention", sizes, {"regions": 9, "depth": 6, "units": 8}).save(folder / "model.keras")
    write_manifest(folder)
    with pytest.raises(ArtifactError, match="different sizes"):
        load_model(folder)
