"""The word prior.

Slow: it builds decoders with TensorFlow.
"""

import numpy as np
import pytest

from captioning.languages import LANGUAGES
from captioning.network.decoder import DECODERS, build_decoder
from captioning.text import Tokenizer
from captioning.training import word_prior
from captioning.training.features import Features
from captioning.training.word_prior import RIDGE, add_word_prior, fit_word_prior

pytestmark = pytest.mark.slow

REGIONS, DEPTH, PHOTOS = 4, 6, 700  # more than a batch of `fit_word_prior`
WORDS = ["red", "green", "blue", "dog", "ball"]
RANDOM = np.random.default_rng(0)
ARRAY = RANDOM.normal(1, 1, (PHOTOS, REGIONS, DEPTH)).astype("float16")
MEANS = ARRAY.astype("float64").mean(1)
CAPTIONS = {  # they depend, in part, on the mean of the features
    f"{i}.jpg": [f"a {word} thing" for word, number in zip(WORDS, mean) if number + RANDOM.normal(0, 0.3) > 1]
    + ["something else"]
    for i, mean in enumerate(MEANS)
}
FEATURES = Features(ARRAY, {name: i for i, name in enumerate(CAPTIONS)}, {})
TOKENIZER = Tokenizer.fit([c for cs in CAPTIONS.values() for c in cs], 1)


@pytest.fixture(params=DECODERS)
def decoder(request):
    return build_decoder(request.param, len(TOKENIZER), REGIONS, DEPTH, units=8)


def share(word):
    """The share of the captions that contain a word, for each photo."""
    return np.array([np.mean([word in caption.split() for caption in captions]) for captions in CAPTIONS.values()])


@pytest.mark.parametrize("decoder", ["attention"], indirect=True)
def test_it_is_ridge_regression_from_the_mean_of_the_regions(decoder):
    fit_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS)
    prior = np.exp(np.array(decoder.word_prior(ARRAY[:50])))[:, 0]
    x = (MEANS - MEANS.mean(0)) / (MEANS.std(0) + 1e-3)
    for word in [*WORDS, "thing", "else"]:
        truth = share(word)
        line = np.linalg.solve(x.T @ x + RIDGE * PHOTOS * np.eye(DEPTH), x.T @ (truth - truth.mean()))
        expected = np.maximum(x @ line + truth.mean(), 0)
        ratio = (expected + decoder.word_prior_floor) / (truth.mean() + decoder.word_prior_floor)
        np.testing.assert_allclose(prior[:, TOKENIZER.word_index[word]], ratio[:50], rtol=1e-3)


@pytest.mark.parametrize("decoder", ["attention"], indirect=True)
def test_function_words_and_the_end_have_no_prior(decoder):
    fit_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS)
    prior = np.array(decoder.word_prior(ARRAY))
    without = [TOKENIZER.pad, TOKENIZER.start, TOKENIZER.end, TOKENIZER.unknown, TOKENIZER.word_index["a"]]
    assert "a" in LANGUAGES["en"].function_words.split()
    assert np.abs(prior[..., without]).max() == 0
    assert np.abs(prior).max() > 0.5


@pytest.mark.parametrize("decoder", ["attention"], indirect=True)
def test_a_lower_rank_is_the_best_approximation(decoder):
    fit_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS)
    whole = np.array(decoder.word_prior_output(decoder.word_prior_projection(MEANS)))
    small = build_decoder(decoder.name, len(TOKENIZER), REGIONS, DEPTH, units=8, word_prior_rank=3)
    fit_word_prior(small, TOKENIZER, FEATURES, CAPTIONS)
    assert small.word_prior_projection.units == 3
    u, s, v = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    assert s[3] > 0.5  # the fourth direction is not nothing
    found = small.word_prior_output(small.word_prior_projection(MEANS))
    np.testing.assert_allclose(found, (u[:, :3] * s[:3]) @ v[:3] + whole.mean(0), atol=1e-3)


@pytest.mark.parametrize("decoder", ["attention"], indirect=True)
@pytest.mark.parametrize("helps", [True, False])
def test_the_prior_stays_only_if_it_helps(decoder, helps, monkeypatch):
    """Both times, the length is matched to the same first bias."""
    fit_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS)  # of an earlier run
    biases, priors = [], []

    def shorter(decoder, *_):
        priors.append(np.abs(np.array(decoder.word_prior(ARRAY))).max())
        biases.append(decoder.word_bias.numpy())
        decoder.word_bias.assign(biases[-1] - len(biases))

    monkeypatch.setattr(word_prior, "match_length", shorter)
    monkeypatch.setattr(word_prior, "cider", lambda *_: 10.0 if len(biases) == 1 else 11.0 if helps else 9.0)
    assert add_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS, CAPTIONS) == (10, 11 if helps else 9)
    assert np.array_equal(*biases)
    assert priors[0] == 0 and priors[1] > 0.5
    np.testing.assert_array_equal(decoder.word_bias, biases[0] - (2 if helps else 1))
    assert (np.abs(np.array(decoder.word_prior(ARRAY))).max() > 0.5) == helps
    if not helps:
        assert not np.array(decoder.word_prior(ARRAY)).any()


def test_the_prior_is_added_to_the_scores(decoder):
    tokens = np.full((1, 1, 1), TOKENIZER.start, "int32")
    photo = ARRAY[[MEANS[:, 0].argmax()]]  # the reddest photo
    before = np.array(decoder([photo, tokens]))[0, 0, 0]
    fit_word_prior(decoder, TOKENIZER, FEATURES, CAPTIONS)
    gained = np.array(decoder([photo, tokens]))[0, 0, 0] - before
    np.testing.assert_allclose(gained, np.array(decoder.word_prior(photo))[0, 0], atol=1e-5)
    assert gained[TOKENIZER.word_index["red"]] > 0.2
