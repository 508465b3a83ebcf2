"""Keras models converted to LiteRT, and what the folder then holds.

Slow: it converts models.
"""

import contextlib
import io
import logging
import runpy
import shutil
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from decoders import decisive_decoder
from helpers import ROOT, picture

from captioning.artifacts import EXPORTED, ArtifactError, check_manifest, write_manifest
from captioning.exported import ExportedSearch
from captioning.generator import DEFAULT_BEAM_WIDTH, MAX_BEAM_WIDTH, SEARCH_BATCH, CaptionGenerator
from captioning.network import export
from captioning.network.decoder import DECODERS
from captioning.network.multilingual import MultilingualDecoder
from captioning.network.saving import load_model, save_model
from captioning.network.search import make_search
from captioning.text import Tokenizer

pytestmark = pytest.mark.slow

TOKENIZER = Tokenizer.fit(["a in on dog cat runs sits"], 1)
REGIONS, DEPTH, LENGTH, POWER = 4, 6, 6, 0.7
FEATURES = np.random.default_rng(1).normal(size=(11, REGIONS, DEPTH)).astype("float32")


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    return decisive_decoder(request.param, TOKENIZER, REGIONS, DEPTH)


@pytest.fixture(scope="module")
def width(decoder):
    """A beam width for each, because a conversion takes seconds."""
    return {"attention": 1, "lstm": MAX_BEAM_WIDTH, "transformer": 2}[decoder.name]


@pytest.fixture(scope="module")
def search(decoder):
    """Its exported search."""
    return ExportedSearch(lambda language, width: export.convert_search(decoder, TOKENIZER, width, LENGTH, POWER))


def keras_search(*arguments):
    """The search of `make_search`, uncompiled, because to compile it takes seconds."""
    tf.config.run_functions_eagerly(True)
    try:
        return make_search(*arguments[:-2])(*arguments[-2:])
    finally:
        tf.config.run_functions_eagerly(False)


def check_same_as_keras(decoder, search, width, found_width):
    expected = keras_search(decoder, TOKENIZER, LENGTH, POWER, FEATURES, found_width)
    found = search(FEATURES, width, "en")
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.tokens.dtype == np.int32 and found.tokens.shape == (len(FEATURES), found_width, LENGTH)
    assert (found.attention is None) == (not decoder.has_attention)
    for one, other in zip(found[1:], expected[1:], strict=True):
        if other is not None:
            np.testing.assert_allclose(one, other, atol=1e-3)


def test_an_encoder_is_converted_again_only_if_its_weights_have_changed(tiny_encoder, monkeypatch):
    converted = []
    monkeypatch.setattr(export, "_latest", (None, b""))
    monkeypatch.setattr(export, "_convert_encoder", lambda encoder: converted.append(encoder) or bytes(len(converted)))
    assert export.convert_encoder(tiny_encoder) == export.convert_encoder(tiny_encoder) == bytes(1)
    bias = tiny_encoder.weights[-1]
    before = bias.numpy()
    bias.assign(before + 1)
    assert export.convert_encoder(tiny_encoder) == bytes(2)
    bias.assign(before)
    assert export.convert_encoder(tiny_encoder) == bytes(3)


def test_exported_search_finds_what_keras_finds(decoder, search, width):
    """A beam is at most as wide as the vocabulary: seven words and the end. Slow: a conversion each."""
    check_same_as_keras(decoder, search, width, min(width, 8))


@pytest.mark.parametrize("number", [1, 2, 3, 7, 10, 23])
def test_any_number_of_images(search, width, number):
    """Groups of five on each core, and the rest one by one, give the same."""
    found = search(np.resize(FEATURES, (number, REGIONS, DEPTH)), width, "en")
    for b in range(number):
        alone = search(FEATURES[b % len(FEATURES)][None], width, "en")
        assert found.tokens[b].tolist() == alone.tokens[0].tolist()
        np.testing.assert_allclose(found.scores[b], alone.scores[0], rtol=1e-4)
        if found.attention is not None:
            np.testing.assert_allclose(found.attention[b], alone.attention[0], atol=1e-5)


def test_exported_search_keeps_its_weights(decoder, search, width):
    expected, before = search(FEATURES, width, "en").tokens.tolist(), decoder.word_bias.numpy()
    decoder.word_bias.assign(before + 10 * np.arange(len(before)))
    assert search(FEATURES, width, "en").tokens.tolist() == expected
    decoder.word_bias.assign(before)


@pytest.fixture(scope="module")
def exported_folder(keras_folder, tmp_path_factory):
    """`keras_folder`, exported for beam width 3, and English for 1 too, because a conversion takes seconds."""
    folder = shutil.copytree(keras_folder, tmp_path_factory.mktemp("exported") / "artifacts")
    convert = export.convert_search

    def convert_some(decoder, tokenizer, width, *settings):
        wanted = width == 3 or (width, tokenizer.language) == (1, "en")
        patch.setattr(export, "SEARCH_BATCH", 5 if (width, tokenizer.language) == (3, "en") else 1)
        return convert(decoder, tokenizer, width, *settings) if wanted else {}

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(export, "convert_search", convert_some)
        assert export.main([str(folder)]) == 0
    assert output.getvalue() == ""
    return folder


@pytest.fixture
def folder(exported_folder, tmp_path):
    return shutil.copytree(exported_folder, tmp_path / "artifacts")


def test_an_exported_folder_captions_as_its_keras_models_do(folder):
    """Slow: it runs the search without compiling it."""
    encoder, decoders, tokenizers, config = load_model(folder)
    generator = CaptionGenerator.load(folder)
    images = np.stack([generator.prepare(picture(n)) for n in range(3)])
    features, truth = generator.encode(images), np.asarray(encoder(images))
    assert np.abs(features - truth).mean() < 0.08 * np.abs(truth).mean()
    assert generator.languages == list(decoders) == ["en", "de"]
    for language, tokenizer in tokenizers.items():
        settings = decoders[language], tokenizer, config["max_length"], config["length_power"]
        expected = keras_search(*settings, features, 3)
        texts = [tokenizer.decode(tokens[0]) for tokens in expected.tokens]
        captions = generator.caption_batch(list(images), language=language)
        assert [(caption.text, caption.language) for caption in captions] == [(text, language) for text in texts]


def test_a_language_that_the_model_does_not_have(folder):
    with pytest.raises(ValueError, match="no captions in 'it', only in: en, de"):
        CaptionGenerator.load(folder).caption(picture(), language="it")


def test_a_beam_width_that_was_not_exported(folder):
    with pytest.raises(ValueError, match="not exported for beam width 4"):
        CaptionGenerator.load(folder).caption(picture(), beam_width=4)


def test_a_decoder_that_was_trained_further_must_be_exported_again(folder):
    _, decoders, tokenizers, _ = load_model(folder)
    sizes = {language: len(tokenizer) for language, tokenizer in tokenizers.items()}
    settings = {name: value for name, value in decoders["en"].settings.items() if name != "vocabulary_size"}
    MultilingualDecoder("attention", sizes, settings).save(folder / "model.keras")
    write_manifest(folder)
    with pytest.raises(ArtifactError, match=r"search.tar.xz was exported from another model.keras. Export it again"):
        CaptionGenerator.load(folder)


def test_saving_and_exporting_leaves_a_folder_that_fits(folder, monkeypatch):
    encoder, decoders, tokenizers, config = load_model(folder)
    decoders["en"].word_bias.assign(decoders["en"].word_bias + 1.0)
    save_model(folder, encoder, decoders, tokenizers, {"loss": [0.5]}, config)
    assert not check_manifest(folder)
    monkeypatch.setattr(
        export, "convert_folder", lambda _: (b"encoder", lambda language, width: {1: b"search"}, ["en"])
    )
    export.export(folder)
    assert check_manifest(folder)


def test_the_archive_that_ships_has_a_search_for_each_beam_width():
    with tarfile.open(ROOT / "artifacts" / "search.tar.xz") as archive:
        names = archive.getnames()
    languages = CaptionGenerator.load(ROOT / "artifacts").languages
    widths = [DEFAULT_BEAM_WIDTH, *(width for width in range(1, MAX_BEAM_WIDTH + 1) if width != DEFAULT_BEAM_WIDTH)]
    assert names == [
        f"{language}_beam{width}_batch{size}.tflite"
        for width in widths
        for language in languages
        for size in (1, SEARCH_BATCH)
    ]


def test_a_folder_with_keras_models_only_is_converted_when_it_is_loaded(
    keras_folder, exported_folder, caplog, monkeypatch
):
    """One line of warning says how to export. Slow: a conversion."""
    monkeypatch.setattr(export, "SEARCH_BATCH", 1)
    caplog.set_level(logging.WARNING)
    generator = CaptionGenerator.load(keras_folder)
    [record] = [record for record in caplog.records if record.name.startswith("captioning")]
    assert "\n" not in record.getMessage()
    assert f"python -m captioning.network.export {keras_folder}" in record.getMessage()
    expected = CaptionGenerator.load(exported_folder)
    for n in range(3):
        assert generator.caption(picture(n)).text == expected.caption(picture(n)).text
    assert not any((keras_folder / name).exists() for name in EXPORTED)


def test_each_beam_width_has_its_search(folder):
    assert check_manifest(folder)
    generator = CaptionGenerator.load(folder)
    for width in (1, 3):
        assert generator.caption(picture(), width).text == generator.caption_batch([picture()] * 20, width)[0].text


@pytest.mark.parametrize("arguments", [[], ["one", "two"]])
def test_wrong_usage_of_the_command(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        export.main(arguments)
    assert end.value.code == 2
    assert "usage: python -m captioning.network.export" in capsys.readouterr().err


def test_the_command_with_a_folder_that_is_not_there(tmp_path, capsys):
    assert export.main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and "Permission" not in error and error.count("\n") == 1


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["captioning.network.export"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("captioning.network.export", run_name="__main__")
    assert end.value.code == 2
    assert "usage: python -m captioning.network.export" in capsys.readouterr().err
