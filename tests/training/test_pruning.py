"""Narrower decoders.

Slow: it builds decoders with TensorFlow.
"""

import numpy as np
import pytest

from captioning.network.decoder import build_decoder
from captioning.training.pruning import prune

pytestmark = pytest.mark.slow

VOCABULARY, REGIONS, DEPTH, UNITS, WIDE = 11, 4, 7, 6, 10
UNIT_PLACES = np.array([0, 2, 4, 5, 8, 9])  # the first half of them in the first half
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.random((40, REGIONS, DEPTH)).astype("float32")
TOKENS = np.pad(RANDOM.integers(2, VOCABULARY, (40, 2, 5)), ((0, 0), (0, 0), (0, 2)))  # two of padding


def random_decoder(units, seed):
    decoder = build_decoder("attention", VOCABULARY, REGIONS, DEPTH, units=units)
    random = np.random.default_rng(seed)
    decoder.set_weights([random.normal(0, 0.5, w.shape) for w in decoder.get_weights()])
    return decoder


def spread(weights, axis):
    """Insert zeros along an axis of units: unit i of a group becomes unit UNIT_PLACES[i] of a wider group."""
    size = weights.shape[axis]
    if size % (UNITS // 2):
        return weights  # not an axis of units
    halves = size // (UNITS // 2)  # groups of UNITS, but for the first, which is of half as many where halves are odd
    groups = [UNITS // 2] * (halves % 2) + [UNITS] * (halves // 2)
    wide = []
    for part in np.split(weights, np.cumsum(groups)[:-1], axis):
        places = UNIT_PLACES[: part.shape[axis]]
        target = np.zeros([part.shape[axis] * WIDE // UNITS if a == axis else n for a, n in enumerate(part.shape)])
        np.moveaxis(target, axis, 0)[places] = np.moveaxis(part, axis, 0)
        wide.append(target)
    return np.concatenate(wide, axis)


def test_units_that_do_nothing_are_dropped_and_nothing_changes():
    narrow = random_decoder(UNITS, 1)
    wide = build_decoder("attention", VOCABULARY, REGIONS, DEPTH, units=WIDE)
    for ours, theirs in zip(narrow.non_trainable_weights, wide.non_trainable_weights):
        theirs.assign(ours)  # the word prior, which has no units
    for ours, theirs in zip(narrow.trainable_weights, wide.trainable_weights):
        weights = ours.numpy()
        for axis in range(weights.ndim):
            weights = spread(weights, axis)
        theirs.assign(weights)
    expected = narrow([FEATURES, TOKENS]).numpy()
    assert wide([FEATURES, TOKENS]).numpy() == pytest.approx(expected, abs=1e-4)
    pruned = prune(wide, UNITS, FEATURES, TOKENS)
    assert pruned.units == UNITS
    assert pruned([FEATURES, TOKENS]).numpy() == pytest.approx(expected, abs=0.05)  # but for the ridge


def test_other_units_replace_a_dropped_one():
    """Some hidden units equal others. Without one, the scores of the words stay nearly the same."""
    decoder = random_decoder(WIDE, 2)
    for layer in (decoder.language_lstm, decoder.attention_lstm):
        for weights in layer.weights:
            for gate in range(4):
                columns = weights.numpy()
                columns[..., gate * WIDE + UNITS : (gate + 1) * WIDE] = columns[
                    ..., gate * WIDE : gate * WIDE + WIDE - UNITS
                ]
                weights.assign(columns)
    image = decoder.attention_lstm_image.kernel.numpy()
    for gate in range(4):
        image[:, gate * WIDE + UNITS : (gate + 1) * WIDE] = image[:, gate * WIDE : gate * WIDE + WIDE - UNITS]
    decoder.attention_lstm_image.kernel.assign(image)
    before = decoder([FEATURES, TOKENS]).numpy()
    after = prune(decoder, WIDE - 1, FEATURES, TOKENS)([FEATURES, TOKENS]).numpy()
    assert np.abs(after - before).mean() < 0.25 * before.std()
