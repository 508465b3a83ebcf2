import itertools

import numpy as np
import pytest
from keras import ops

from captioning.network.decoder import DECODERS, build_decoder
from captioning.network.search import make_sampler, make_search
from captioning.text import Tokenizer

TOKENIZER = Tokenizer.fit(["a in on"], minimum_count=1)  # words that may come more than once
REGIONS, DEPTH = 4, 6


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    """A decoder whose random weights are large enough to have opinions, and too few to be rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioning.network.decoder.PRESENCE_RANK", 5)
        decoder = build_decoder(request.param, len(TOKENIZER), REGIONS, DEPTH, units=8)
    random = np.random.default_rng(3)
    for weight in decoder.weights:
        weight.assign(random.normal(size=weight.shape) * 0.7)
    return decoder


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(1).normal(size=(5, REGIONS, DEPTH)).astype("float32")


def teacher_forced(decoder, features, tokens):
    """log p of each token of (B, K, T), by the decoder's training path, specials but the end ruled out."""
    B, K, _ = tokens.shape
    inputs = np.concatenate([np.full((B, K, 1), TOKENIZER.start), tokens[..., :-1]], axis=-1)
    logits = np.array(decoder([features, inputs.astype("int32")]))
    logits[..., [TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown]] = -1e9
    return np.take_along_axis(ops.convert_to_numpy(ops.log_softmax(logits)), tokens[..., None], -1)[..., 0]


def test_width_one_is_greedy(decoder, features):
    found = make_search(decoder, TOKENIZER, max_length=6)(features, 1)
    tokens = np.full((5, 1, 6), TOKENIZER.pad)
    for b, image in enumerate(features):
        said = [TOKENIZER.start]
        while len(said) <= 6 and said[-1] != TOKENIZER.end:
            logits = np.array(decoder([image[None], np.array([[said]], "int32")]))[0, 0, -1]
            logits[[TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown]] = -np.inf
            said.append(int(logits.argmax()))
        tokens[b, 0, : len(said) - 1] = said[1:]
    assert found.tokens.tolist() == tokens.tolist()


def test_wide_beam_finds_what_exhaustive_search_finds(decoder, features):
    T, power = 3, 0.7
    words = [TOKENIZER.word_index[w] for w in ("a", "in", "on")]
    sentences = [s + (TOKENIZER.end,) for n in range(T) for s in itertools.product(words, repeat=n)]
    sentences += list(itertools.product(words, repeat=T))
    tokens = np.full((5, len(sentences), T), TOKENIZER.pad)
    for k, sentence in enumerate(sentences):
        tokens[:, k, : len(sentence)] = sentence
    log_p = teacher_forced(decoder, features, tokens) * (tokens != TOKENIZER.pad)
    scores = log_p.sum(-1) / (tokens != TOKENIZER.pad).sum(-1) ** power
    best = scores.argmax(axis=1)
    # The vocabulary sets how wide a beam may be; four is wide enough for these few sentences.
    found = make_search(decoder, TOKENIZER, max_length=T, length_power=power)(features, 4)
    assert found.tokens[:, 0].tolist() == [tokens[b, k].tolist() for b, k in enumerate(best)]
    np.testing.assert_allclose(found.scores[:, 0], scores.max(axis=1), rtol=1e-4)


def test_word_probabilities_are_those_of_teacher_forcing(decoder, features):
    found = make_search(decoder, TOKENIZER, max_length=6)(features, 3)
    said = found.tokens != TOKENIZER.pad
    expected = teacher_forced(decoder, features, found.tokens) * said
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_gives_what_single_images_give(decoder, features, frozen):
    search = make_search(decoder, TOKENIZER, max_length=8, frozen=frozen)
    together = search(features, 3)
    for b in range(len(features)):
        alone = search(features[b : b + 1], 3)
        assert alone.tokens[0].tolist() == together.tokens[b].tolist()
        np.testing.assert_allclose(alone.scores[0], together.scores[b], rtol=1e-4)
        np.testing.assert_allclose(alone.attention[0], together.attention[b], atol=1e-5)


def test_frozen_search_finds_the_same_and_keeps_its_weights(decoder, features):
    search, frozen = (make_search(decoder, TOKENIZER, max_length=6, frozen=frozen) for frozen in (False, True))
    for width in (3, 1):
        expected, found = search(features, width), frozen(features, width)
        assert found.tokens.tolist() == expected.tokens.tolist()  # weights this small are not rounded
        for one, other in zip(found[1:], expected[1:]):
            np.testing.assert_allclose(one, other, atol=1e-3)
    before = decoder.word_bias.numpy()
    decoder.word_bias.assign(before + 10 * np.arange(len(before)))
    assert frozen(features, 1).tokens.tolist() == expected.tokens.tolist()
    assert search(features, 1).tokens.tolist() != expected.tokens.tolist()
    decoder.word_bias.assign(before)


def test_any_number_of_images(features):
    """Whatever the groups are that the processors take."""
    search = make_search(
        build_decoder("attention", len(TOKENIZER), REGIONS, DEPTH, units=8), TOKENIZER, max_length=6, frozen=True
    )
    alone = [search(features[b : b + 1], 2) for b in range(len(features))]
    for number in (2, 3, 7, 23):
        found = search(np.resize(features, (number, REGIONS, DEPTH)), 2)
        for b in range(number):
            assert found.tokens[b].tolist() == alone[b % len(features)].tokens[0].tolist()
            np.testing.assert_allclose(found.scores[b], alone[b % len(features)].scores[0], rtol=1e-4)


def test_alternatives_are_distinct_and_ranked(decoder, features):
    found = make_search(decoder, TOKENIZER, max_length=6)(features, 4)
    for tokens, scores in zip(found.tokens, found.scores):
        assert len({tuple(t) for t in tokens}) == 4
        assert (np.diff(scores) <= 1e-6).all()


def test_attention_sums_to_one_for_each_word(decoder, features):
    found = make_search(decoder, TOKENIZER, max_length=6)(features, 2)
    if decoder.attends:
        np.testing.assert_allclose(found.attention.sum(-1), found.tokens != TOKENIZER.pad, atol=1e-5)
    else:
        assert found.attention.shape[-1] == 0


def test_no_special_token_in_a_caption(decoder, features):
    specials = {TOKENIZER.pad, TOKENIZER.start, TOKENIZER.unknown}
    samples = ops.convert_to_numpy(make_sampler(decoder, TOKENIZER, 50, max_length=6)[0](features)).reshape(-1, 6)
    beams = make_search(decoder, TOKENIZER, max_length=6)(features, 4).tokens.reshape(-1, 6)
    for row in (*samples.tolist(), *beams.tolist()):
        end = row.index(TOKENIZER.end) if TOKENIZER.end in row else len(row)
        assert not specials & set(row[:end])
        assert set(row[end + 1 :]) <= {TOKENIZER.pad}


def test_a_word_that_carries_meaning_is_said_once(features):
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
