"""The decoders, with tiny random ones.

Slow: it builds decoders with TensorFlow.
"""

import keras
import numpy as np
import pytest
from keras import ops

from captioning.network.decoder import DECODERS, build_decoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    return build_decoder(request.param, 11, 4, 6, units=8)


def example(captions=3):
    random = np.random.default_rng(0)
    return random.normal(size=(2, 4, 6)).astype("float32"), random.integers(0, 11, (2, captions, 5)).astype("int32")


def test_logits_have_the_shape_of_the_tokens(decoder):
    features, tokens = example()
    assert decoder([features, tokens]).shape == (2, 3, 5, 11)


def test_a_word_depends_only_on_the_picture_and_the_words_before(decoder):
    features, tokens = example()
    logits = np.asarray(decoder([features, tokens]))
    changed = tokens.copy()
    changed[:, :, 3] = (changed[:, :, 3] + 1) % 11
    other = np.asarray(decoder([features, changed]))
    np.testing.assert_allclose(other[:, :, :3], logits[:, :, :3], atol=1e-6)
    assert np.abs(other[:, :, 3:] - logits[:, :, 3:]).max() > 1e-4
    assert np.abs(np.asarray(decoder([features * 2, tokens])) - logits).max() > 1e-4


def test_captions_of_an_image_do_not_depend_on_each_other(decoder):
    features, tokens = example()
    alone = np.asarray(decoder([features, tokens[:, 1:2]]))
    np.testing.assert_allclose(np.asarray(decoder([features, tokens]))[:, 1:2], alone, atol=1e-6)


def test_dropout_only_in_training(decoder):
    features, tokens = example()
    a, b = (np.asarray(decoder([features, tokens], training=True)) for _ in range(2))
    assert np.abs(a - b).max() > 1e-4
    np.testing.assert_array_equal(np.asarray(decoder([features, tokens])), np.asarray(decoder([features, tokens])))


def test_a_loaded_decoder_is_the_same(decoder, tmp_path):
    decoder.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(again(list(example()))), np.asarray(decoder(list(example()))))


def test_lstm_step_against_keras():
    """The LSTM step of both decoders computes the same as the LSTM cell of Keras."""
    decoder = build_decoder("lstm", 11, 4, 6, units=8)
    random = np.random.default_rng(0)
    x, hidden, cell = (random.normal(size=(3, 8)).astype("float32") for _ in range(3))
    reference = keras.layers.LSTMCell(8, unit_forget_bias=True)
    reference(x, [hidden, cell])
    kernel, recurrent, bias = reference.get_weights()
    bias[8:16] -= 1  # ours adds the forget bias in the step
    decoder.language_lstm.set_weights([np.concatenate([kernel, recurrent]), bias])
    expected_hidden, (_, expected_cell) = reference(x, [hidden, cell])
    _, _, (new_hidden, new_cell) = decoder.step((), (hidden, cell), x)
    np.testing.assert_allclose(ops.convert_to_numpy(new_hidden), expected_hidden, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(new_cell), expected_cell, atol=1e-5)


def test_unknown_decoder_names_the_known_ones():
    with pytest.raises(ValueError, match="unheard-of.*lstm.*attention"):
        build_decoder("unheard-of", 11, 4, 6)


def test_heads_that_do_not_divide_the_units_are_refused():
    with pytest.raises(ValueError, match="units must be a multiple of the 8 attention heads, not 20"):
        build_decoder("transformer", 11, 4, 6, units=20)


def test_a_decoder_trained_in_bfloat16_is_loaded_in_float32(tmp_path):
    decoder = build_decoder("attention", 11, 4, 6, units=8, precision="mixed_bfloat16")
    assert decoder.project.compute_dtype == "bfloat16"
    decoder.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert again.project.compute_dtype == "float32"
    difference = np.asarray(again(list(example()))) - np.asarray(decoder(list(example())))
    assert np.abs(difference).max() < 0.02
