"""Beam search and sampling, compared with the decoder step by step.

Slow: it searches with TensorFlow.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from decoders import decisive_decoder
from keras import ops

from captioning.network.decoder import DECODERS, build_decoder
from captioning.network.search import make_sampler, make_search
from captioning.text import Tokenizer

# One test compares the functions with the compiled ones.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uncompiled")]

TOKENIZER = Tokenizer.fit(["a in on"], minimum_count=1)  # function words, which may be repeated
REGIONS, DEPTH = 4, 6


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    return decisive_decoder(request.param, TOKENIZER, REGIONS, DEPTH)


@pytest.fixture(scope="module")
def search(decoder):
    return make_search(decoder, TOKENIZER, max_length=6)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(1).normal(size=(5, REGIONS, DEPTH)).astype("float32")


@pytest.fixture(scope="module")
def found(search, features):
    """With beam width 3."""
    tf.config.run_functions_eagerly(True)
    try:
        return search(features, 3)
    finally:
        tf.config.run_functions_eagerly(False)


def teacher_forced(decoder, features, tokens):
    """log p of each token of (B, K, T), by the decoder's training path, specials but the end ruled out."""
    B, K, _ = tokens.shape
    inputs = np.concatenate([np.full((B, K, 1), TOKENIZER.start), tokens[..., :-1]], axis=-1)
    logits = np.array(decoder([features, inputs.astype("int32")]))
    logits[..., [TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown]] = -1e9
    return np.take_along_axis(ops.convert_to_numpy(ops.log_softmax(logits)), tokens[..., None], -1)[..., 0]


def test_beam_width_1_is_greedy_search(decoder, features, search):
    found = search(features, 1)
    tokens = np.full((5, 1, 1), TOKENIZER.start, "int32")
    for _ in range(6):
        logits = np.array(decoder([features, tokens]))[:, 0, -1]
        logits[:, [TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown]] = -np.inf
        has_ended = np.isin(tokens[:, 0, -1], [TOKENIZER.end, TOKENIZER.pad])
        following = np.where(has_ended, TOKENIZER.pad, logits.argmax(-1)).astype("int32")
        tokens = np.concatenate([tokens, following[:, None, None]], axis=-1)
    assert found.tokens.tolist() == tokens[..., 1:].tolist()


def test_a_wide_beam_finds_the_best_of_all_captions(decoder, features):
    T, power = 3, 0.7
    words = [TOKENIZER.word_index[w] for w in ("a", "in", "on")]
    sentences = [(*s, TOKENIZER.end) for n in range(T) for s in itertools.product(words, repeat=n)]
    sentences += list(itertools.product(words, repeat=T))
    tokens = np.full((5, len(sentences), T), TOKENIZER.pad)
    for k, sentence in enumerate(sentences):
        tokens[:, k, : len(sentence)] = sentence
    log_p = teacher_forced(decoder, features, tokens) * (tokens != TOKENIZER.pad)
    scores = log_p.sum(-1) / (tokens != TOKENIZER.pad).sum(-1) ** power
    best = scores.argmax(axis=1)
    # Four is the widest beam for this vocabulary, and wide enough for so few sentences.
    found = make_search(decoder, TOKENIZER, max_length=T, length_power=power)(features, 4)
    assert found.tokens[:, 0].tolist() == [tokens[b, k].tolist() for b, k in enumerate(best)]
    np.testing.assert_allclose(found.scores[:, 0], scores.max(axis=1), rtol=1e-4)


def test_word_probabilities_are_those_of_teacher_forcing(decoder, features, found):
    said = found.tokens != TOKENIZER.pad
    expected = teacher_forced(decoder, features, found.tokens) * said
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)


def test_batch_gives_what_single_images_give(decoder, features, search, found):
    for b in (0, len(features) - 1):
        alone = search(features[b : b + 1], 3)
        assert alone.tokens[0].tolist() == found.tokens[b].tolist()
        np.testing.assert_allclose(alone.scores[0], found.scores[b], rtol=1e-4)
        if decoder.has_attention:
            np.testing.assert_allclose(alone.attention[0], found.attention[b], atol=1e-5)


def test_compiled_search_gives_what_uncompiled_search_gives(decoder, features, search, found):
    """Also when the weights change later. Slow: it compiles."""
    tf.config.run_functions_eagerly(False)
    compiled = search(features, 3)
    tf.config.run_functions_eagerly(True)
    assert compiled.tokens.tolist() == found.tokens.tolist()
    for one, other in zip(compiled[1:], found[1:]):
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-5)
    before = decoder.word_bias.numpy()
    decoder.word_bias.assign(before + 10 * np.arange(len(before)))
    changed = search(features, 3).tokens.tolist()
    tf.config.run_functions_eagerly(False)
    assert changed == search(features, 3).tokens.tolist() != compiled.tokens.tolist()
    decoder.word_bias.assign(before)


def test_alternatives_are_distinct_and_ranked(found):
    for tokens, scores in zip(found.tokens, found.scores):
        assert len({tuple(t) for t in tokens}) == 3
        assert (np.diff(scores) <= 1e-6).all()


def test_attention_sums_to_one_for_each_word(decoder, found):
    if decoder.has_attention:
        np.testing.assert_allclose(found.attention.sum(-1), found.tokens != TOKENIZER.pad, atol=1e-5)
    else:
        assert found.attention is None


def test_no_special_token_in_a_caption(decoder, features, found):
    specials = {TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown}
    samples = ops.convert_to_numpy(make_sampler(decoder, TOKENIZER, 50, max_length=6)[0](features)).reshape(-1, 6)
    beams = found.tokens.reshape(-1, 6)
    for row in (*samples.tolist(), *beams.tolist()):
        end = row.index(TOKENIZER.end) if TOKENIZER.end in row else len(row)
        assert not specials & set(row[:end])
        assert set(row[end + 1 :]) <= {TOKENIZER.pad}


def test_only_function_words_are_repeated(features):
    tokenizer = Tokenizer.fit(["a dog a cat"], minimum_count=1)
    decoder = build_decoder("attention", len(tokenizer), REGIONS, DEPTH, units=8)
    wanted = np.zeros(len(tokenizer), "float32")
    wanted[[tokenizer.word_index[w] for w in ("a", "dog", "cat")]] = 5.0, 9.0, 7.0
    decoder.word_bias.assign(wanted)
    found = make_search(decoder, tokenizer, max_length=6)(features, 2)
    for tokens in found.tokens[:, 0]:
        assert sorted(tokenizer.words(tokens)) == ["a", "a", "a", "a", "cat", "dog"]
    assert (found.log_probabilities > -20).all()


@pytest.mark.parametrize("width", [0, 100])
def test_impossible_beam_width(decoder, features, width):
    with pytest.raises(ValueError, match="beam width"):
        make_search(decoder, TOKENIZER)(features, width)
