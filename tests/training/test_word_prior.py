import numpy as np
import pytest

from captioning.network.decoder import DECODERS, UNSEEN, build_decoder
from captioning.encoder import Features
from captioning.training.word_prior import RIDGE, fit_presence
from captioning.network.search import FUNCTION_WORDS
from captioning.text import Tokenizer

REGIONS, DEPTH, PHOTOS = 4, 6, 700  # more than are read at a time
WORDS = "red green blue dog ball".split()
RANDOM = np.random.default_rng(0)
ARRAY = RANDOM.normal(1, 1, (PHOTOS, REGIONS, DEPTH)).astype("float16")
MEANS = ARRAY.astype("float64").mean(1)
CAPTIONS = {  # what is said of a photo follows, in part, from its mean
    f"{i}.jpg": [f"a {word} thing" for word, number in zip(WORDS, mean) if number + RANDOM.normal(0, 0.3) > 1]
    + ["something else"]
    for i, mean in enumerate(MEANS)
}
FEATURES = Features(ARRAY, {name: i for i, name in enumerate(CAPTIONS)}, {})
TOKENIZER = Tokenizer.fit([c for cs in CAPTIONS.values() for c in cs], 1)


@pytest.fixture(params=DECODERS)
def decoder(request):
    return build_decoder(request.param, len(TOKENIZER), REGIONS, DEPTH, units=8)


def shares(word):
    """The share of a photo's captions that say a word, all photos."""
    return np.array([np.mean([word in caption.split() for caption in captions]) for captions in CAPTIONS.values()])


def test_it_is_ridge_regression_from_the_mean_of_the_regions(decoder):
    fit_presence(decoder, TOKENIZER, FEATURES, CAPTIONS)
    told = np.exp(np.array(decoder.presence(ARRAY[:50])))[:, 0]
    x = (MEANS - MEANS.mean(0)) / (MEANS.std(0) + 1e-3)
    for word in [*WORDS, "thing", "else"]:
        truth = shares(word)
        line = np.linalg.solve(x.T @ x + RIDGE * PHOTOS * np.eye(DEPTH), x.T @ (truth - truth.mean()))
        expected = np.maximum(x @ line + truth.mean(), 0)
        ratio = (expected + UNSEEN) / (truth.mean() + UNSEEN)
        np.testing.assert_allclose(told[:, TOKENIZER.word_index[word]], ratio[:50], rtol=1e-3)


def test_it_leaves_small_words_and_the_end_to_the_decoder(decoder):
    fit_presence(decoder, TOKENIZER, FEATURES, CAPTIONS)
    told = np.array(decoder.presence(ARRAY))
    small = [TOKENIZER.pad, TOKENIZER.start, TOKENIZER.end, TOKENIZER.unknown, TOKENIZER.word_index["a"]]
    assert "a" in FUNCTION_WORDS
    assert np.abs(told[..., small]).max() == 0
    assert np.abs(told).max() > 0.5


def test_fewer_numbers_a_photo_come_as_close_as_they_can(monkeypatch, decoder):
    fit_presence(decoder, TOKENIZER, FEATURES, CAPTIONS)
    whole = np.array(decoder.shares(decoder.glance(MEANS)))
    monkeypatch.setattr("captioning.network.decoder.PRESENCE_RANK", 3)
    small = build_decoder(decoder.name, len(TOKENIZER), REGIONS, DEPTH, units=8)
    fit_presence(small, TOKENIZER, FEATURES, CAPTIONS)
    assert small.glance.units == 3
    u, s, v = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    assert s[3] > 0.5  # the fourth direction is not nothing
    np.testing.assert_allclose(small.shares(small.glance(MEANS)), (u[:, :3] * s[:3]) @ v[:3] + whole.mean(0), atol=1e-3)


def test_it_makes_a_word_that_is_seen_likelier(decoder):
    tokens = np.full((1, 1, 1), TOKENIZER.start, "int32")
    photo = ARRAY[[MEANS[:, 0].argmax()]]  # reddest of all
    before = np.array(decoder([photo, tokens]))[0, 0, 0]
    fit_presence(decoder, TOKENIZER, FEATURES, CAPTIONS)
    gained = np.array(decoder([photo, tokens]))[0, 0, 0] - before
    np.testing.assert_allclose(gained, np.array(decoder.presence(photo))[0, 0], atol=1e-5)
    assert gained[TOKENIZER.word_index["red"]] > 0.2
