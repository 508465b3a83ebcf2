"""Self-critical training, with a tiny decoder.

Slow: it trains with TensorFlow.
"""

import numpy as np
import pytest
from keras import ops
from training_runs import CAPTIONS, TOKENIZER, new_decoder, new_features, new_run

from captioning.network.search import make_search
from captioning.training.self_critical import SelfCriticalTraining, match_length
from captioning.training.teacher_forcing import Training

pytestmark = pytest.mark.slow


def test_self_critical_training_raises_the_reward(uncompiled, tmp_path):
    """Slow: two runs without compilation."""
    decoder = new_decoder()
    new_run(Training, tmp_path / "first", decoder, epochs=3, learning_rate=5e-3).run()

    def mean_reward():
        samples = ops.convert_to_numpy(training.sample(new_features().array[:24]))
        captions = [TOKENIZER.decode(row) for row in samples.reshape(-1, samples.shape[-1])]
        return training.reward.reward([f"{i}.jpg" for i in range(24) for _ in range(5)], captions).mean()

    training = new_run(SelfCriticalTraining, tmp_path / "second", decoder, epochs=5)
    before = mean_reward()
    training.run()
    assert mean_reward() > before


def test_captions_become_as_long_as_those_of_people_but_one_word():
    """Slow: it compiles a search."""
    decoder, features = new_decoder(), new_features()
    decoder.word_bias.assign(1.5 * (np.arange(len(TOKENIZER)) == TOKENIZER.end))  # captions end at once
    search = make_search(decoder, TOKENIZER)

    def mean_length():
        return np.mean((search(features.array, 3).tokens[:, 0] > TOKENIZER.end).sum(1))

    assert mean_length() < 2
    people = np.mean([len(text.split()) for texts in CAPTIONS.values() for text in texts])
    found = match_length(decoder, TOKENIZER, features, CAPTIONS)
    assert list(found) == list(CAPTIONS)
    assert np.mean([len(caption.split()) for caption in found.values()]) == mean_length() >= people - 1
    before = decoder.word_bias.numpy()
    match_length(decoder, TOKENIZER, features, CAPTIONS)
    np.testing.assert_array_equal(decoder.word_bias, before)  # they are long enough already
