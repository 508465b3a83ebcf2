"""Captions of the model that ships."""

import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import ROOT, picture
from PIL import Image

from captioning.artifacts import EXPORTED, ArtifactError, write_manifest
from captioning.cores import CPU_COUNT
from captioning.exported import MODELS_IN_MEMORY, ExportedSearch, Hypotheses
from captioning.generator import CaptionGenerator
from captioning.images import ImageError
from captioning.text import Tokenizer


@pytest.fixture
def path(tmp_path):
    Image.new("RGB", (640, 480), "skyblue").save(tmp_path / "sky.jpg")
    return tmp_path / "sky.jpg"


def test_caption_has_words_probabilities_and_attention(generator, path):
    caption = generator.caption(path, beam_width=3, alternatives=3)
    assert caption.text == " ".join(word.text for word in caption.words) != ""
    assert 0 < caption.probability <= np.prod([word.probability for word in caption.words]) * 1.001
    assert 0 <= caption.confidence <= 1
    for word in caption.words:
        assert word.attention.shape == (7, 7)
        assert word.attention.sum() == pytest.approx(1, abs=1e-4)
    texts = [alternative.text for alternative in caption.alternatives]
    assert len(set(texts)) == 3 and texts[0] == caption.text


def test_every_kind_of_photo_gives_the_same_caption(generator, path):
    image = Image.open(path)
    expected = generator.caption(path).text
    with path.open("rb") as file:
        for photo in (str(path), path.read_bytes(), file, image, np.asarray(image)):
            assert generator.caption(photo).text == expected
    assert generator.caption(path) == generator.caption(path), "captions can be compared"


def test_batch_gives_what_single_photos_give(generator, path):
    photos = [picture(1), path, np.full((50, 60, 3), 200, "uint8")]
    for together, photo in zip(generator.caption_batch(photos), photos):
        alone = generator.caption(photo)
        assert together.text == alone.text
        assert together.probability == pytest.approx(alone.probability, rel=1e-3)
    assert generator.caption_batch([]) == []


@pytest.mark.slow
def test_many_photos_give_what_single_photos_give(generator):
    """The search takes five photos together on each core, and the rest one by one. Slow: it captions each twice."""
    photos = [picture(n) for n in range(5 * CPU_COUNT + 3)]
    alone = [generator.caption(photo).text for photo in photos]
    assert [caption.text for caption in generator.caption_batch(photos)] == alone


def test_wrong_arguments(generator, path):
    with pytest.raises(ImageError) as error:
        generator.caption_batch([path, b"no picture"])
    assert error.value.__notes__ == ["Photo 1 of 2, counted from 0"]
    with path.open(encoding="latin-1") as text:
        for no_photo in (None, ["a.jpg"], text):
            with pytest.raises(TypeError, match="a photo is a path"):
                generator.caption(no_photo)
    for arguments in ({"beam_width": 0}, {"beam_width": 99}, {"alternatives": 0}, {"alternatives": 11}):
        with pytest.raises(ValueError, match="between 1 and 10"):
            generator.caption(path, **arguments)


@pytest.mark.parametrize("beam_width", [1, 2, 10])
def test_every_beam_width(generator, beam_width):
    caption = generator.caption(picture(), beam_width, alternatives=beam_width)
    texts = [alternative.text for alternative in caption.alternatives]
    assert len(set(texts)) == beam_width and caption.text == texts[0]


def test_more_alternatives_than_the_beam_width_widen_the_beam(generator):
    wide = generator.caption(picture(), beam_width=5, alternatives=5)
    assert [a.text for a in generator.caption(picture(), 2, 5).alternatives] == [a.text for a in wide.alternatives]


@pytest.mark.slow
def test_several_threads_may_use_it(generator):
    """Slow: it captions many photos."""
    photos = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (40, 50, 3), np.uint8)) for n in range(4)]
    alone = [generator.caption(photo).text for photo in photos]
    with ThreadPoolExecutor(4) as threads:
        assert [caption.text for caption in threads.map(generator.caption, photos * 3)] == alone * 3


def test_a_decoder_without_attention_gives_words_without_attention():
    tokenizer = Tokenizer.fit(["a dog"], 1)
    tokens = np.array([[[*tokenizer.encode("a dog")[1:], tokenizer.pad]]])
    log_p = np.log(np.array([[[0.5, 0.8, 0.9, 1.0]]], np.float32))
    found = Hypotheses(tokens, log_p, None, np.zeros((1, 1)))
    generator = CaptionGenerator(
        None,
        lambda features, width, language: found,
        {"en": tokenizer},
        {"grid": (2, 2), "confidence": {"en": (0.5, 0.1)}},
    )
    [caption] = generator.search(np.zeros((1, 4, 6)), beam_width=1)
    assert caption.text == "a dog" and [word.attention for word in caption.words] == [None, None]
    assert [word.probability for word in caption.words] == pytest.approx([0.5, 0.8])
    assert caption.probability == pytest.approx(0.36)
    assert caption.confidence == pytest.approx(0.5 * (0.5**0.25 * 0.8) ** (1 / 1.25) + 0.1), "“a” counts a quarter"


def test_a_tiny_vocabulary_has_fewer_alternatives():
    tokenizer = Tokenizer.fit(["a dog"], 1)
    tokens = np.full((1, 2, 4), tokenizer.end)
    found = Hypotheses(tokens, np.zeros((1, 2, 4), "float32"), None, np.zeros((1, 2)))
    config = {"grid": (2, 2), "confidence": {"en": (0.0, 0.5)}}
    generator = CaptionGenerator(None, lambda *_: found, {"en": tokenizer}, config)
    [caption] = generator.search(np.zeros((1, 4, 6)), alternatives=3)
    assert [(choice.text, choice.confidence) for choice in caption.alternatives] == [("", 0.0)] * 2


def test_keras_models_without_tensorflow(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "artifacts", tmp_path, dirs_exist_ok=True)
    for name in EXPORTED:
        (tmp_path / name).unlink()
    write_manifest(tmp_path)
    monkeypatch.setitem(sys.modules, "captioning.network.export", None)  # ModuleNotFoundError
    with pytest.raises(ArtifactError, match=r"export is not installed here. .* run: .*captioning.network.export"):
        CaptionGenerator.load(tmp_path)


def test_a_search_keeps_the_models_used_last_in_memory(monkeypatch):
    loaded = []
    monkeypatch.setattr("captioning.exported.Model", lambda sources: sources)
    search = ExportedSearch(lambda language, width: loaded.append((language, width)) or {1: b""})
    first = [("en", 1), ("de", 1), *(("en", width) for width in range(2, MODELS_IN_MEMORY))]
    for which in (*first, ("en", 1), ("fr", 1), ("en", 1), ("de", 1)):
        search.model(*which)
    assert loaded == [*first, ("fr", 1), ("de", 1)]


def test_a_search_that_is_being_loaded_delays_no_other(monkeypatch):
    monkeypatch.setattr("captioning.exported.Model", lambda sources: sources)
    loading, go_on = threading.Event(), threading.Event()

    def load(language, width):
        if language == "de":
            loading.set()
            assert go_on.wait(10)
        return {1: language.encode()}

    search = ExportedSearch(load)
    with ThreadPoolExecutor() as threads:
        german = threads.submit(search.model, "de", 3)
        assert loading.wait(10) and search.model("en", 3) == {1: b"en"} and not german.done()
        go_on.set()
