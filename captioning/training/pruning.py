"""Make a narrower decoder out of a wide one: drop the units that matter least, refit the weights of the others."""

from __future__ import annotations

import numpy as np
from keras import ops

from captioning.network.decoder import AttentionDecoder, build_decoder


def prune(decoder: AttentionDecoder, units: int, features: np.ndarray, tokens: np.ndarray) -> AttentionDecoder:
    """A copy of ``decoder`` with fewer units. Train it with `Distillation` afterwards, to recover its scores.

    Each group of units keeps those that contribute most to the layers that read them (variance times squared weights).
    The weights of those layers are then refitted by least squares, so that their inputs change little. This is channel
    pruning (He et al., 2017, arXiv:1707.06168) for an LSTM.

    Args:
        features: (N, R, D) float of some training images; a few hundred are enough.
        tokens: (N, C, T) int, captions of each, padded with 0.
    """
    U, A = decoder.units, decoder.attention_units
    activations = _activations(decoder, features, tokens)
    embedding = ops.convert_to_numpy(decoder.embedding.embeddings)
    word_bias = ops.convert_to_numpy(decoder.word_bias)
    [energy] = decoder.energy.get_weights()
    [image_kernel] = decoder.attention_lstm_image.get_weights()
    (project, project_bias), (keys, keys_bias) = decoder.project.get_weights(), decoder.keys.get_weights()
    (output, output_bias), (gates, gates_bias) = decoder.output_layer.get_weights(), decoder.language_lstm.get_weights()
    attention_lstm, attention_lstm_bias = decoder.attention_lstm.get_weights()
    query_gate, query_gate_bias = decoder.query_and_gate.get_weights()

    def contribution(name, *readers):
        return activations[name].var(0) * sum((weights**2).sum(1) for weights in readers)

    def strongest(contributions, number=units):
        return np.sort(np.argsort(contributions)[-number:])

    words = strongest(contribution("words", attention_lstm[:U]) + activations["output"].var(0) * (embedding**2).sum(0))
    regions = strongest(contribution("values", keys, image_kernel) + contribution("context", gates[:U], output[U:]))
    attention_hidden = strongest(
        contribution("attention_hidden", gates[U : 2 * U], attention_lstm[2 * U :], query_gate)
    )
    hidden = strongest(contribution("hidden", gates[2 * U :], attention_lstm[U : 2 * U], output[:U]))
    compared = strongest(energy[:, 0] ** 2 * np.tanh(activations["keys"]).var(0), units // 2)

    def refit(name, kept, weights):
        """Rows for the units that are left: least squares, with a little ridge."""
        x, left = activations[name], activations[name][:, kept]
        square = left.T @ left
        square += 1e-3 * np.trace(square) / units * np.eye(units)
        return np.linalg.solve(square, left.T @ x) @ weights

    def gate_columns(weights, kept):
        """Columns of the four gates of an LSTM."""
        return np.concatenate([part[..., kept] for part in np.split(weights, 4, axis=-1)], axis=-1)

    def query_gate_columns(weights):
        return np.concatenate([weights[..., :A][..., compared], weights[..., A:][..., regions]], axis=-1)

    from_context = [refit("context", regions, w) for w in (gates[:U], output[U:])]
    readers = gates[U : 2 * U], attention_lstm[2 * U :], query_gate
    from_attention = [refit("attention_hidden", attention_hidden, w) for w in readers]
    from_hidden = [refit("hidden", hidden, w) for w in (gates[2 * U :], attention_lstm[U : 2 * U], output[:U])]
    from_words = refit("words", words, attention_lstm[:U])

    # Distillation overfits less than teacher forcing, so little dropout is enough.
    settings = decoder.settings | {"units": units, "dropout": 0.1, "input_dropout": 0.05}
    narrow = build_decoder(decoder.name, precision=decoder.dtype_policy.name, **settings)
    narrow.embedding.set_weights([embedding[:, words]])
    narrow.word_bias.assign(word_bias)
    narrow.word_prior_projection.set_weights(decoder.word_prior_projection.get_weights())
    narrow.word_prior_output.set_weights(decoder.word_prior_output.get_weights())
    narrow.project.set_weights([project[:, regions], project_bias[regions]])
    narrow.keys.set_weights([refit("values", regions, keys)[:, compared], keys_bias[compared]])
    narrow.energy.set_weights([energy[compared]])
    narrow.attention_lstm_image.set_weights([gate_columns(refit("values", regions, image_kernel), attention_hidden)])
    narrow.query_and_gate.set_weights([query_gate_columns(from_attention[2]), query_gate_columns(query_gate_bias)])
    kernel = np.concatenate([from_words, from_hidden[1], from_attention[1]])
    narrow.attention_lstm.set_weights([gate_columns(w, attention_hidden) for w in (kernel, attention_lstm_bias)])
    kernel = np.concatenate([from_context[0], from_attention[0], from_hidden[0]])
    narrow.language_lstm.set_weights([gate_columns(w, hidden) for w in (kernel, gates_bias)])
    narrow.output_layer.set_weights([np.concatenate([from_hidden[2], from_context[1]])[:, words], output_bias[words]])
    return narrow


def _activations(decoder: AttentionDecoder, features: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The output of each group of units under teacher forcing: name → (observations, U)."""
    activations: dict[str, list] = {}

    def record(name, values):
        activations.setdefault(name, []).append(ops.convert_to_numpy(values))

    for start in range(0, len(features), 50):
        captions = tokens[start : start + 50]
        memory, state = decoder.start(features[start : start + 50], captions.shape[1])
        record("values", ops.reshape(memory[0], (-1, decoder.units)))
        record("keys", ops.reshape(memory[1], (-1, decoder.attention_units)))
        words = decoder.embed(captions)
        for t in range(captions.shape[2] - 1):
            not_padding = captions[:, :, t + 1] != 0
            context, _, state = decoder.step(memory, state, words[:, :, t])
            output = decoder.output_layer(ops.concatenate([state[0], context], axis=-1))
            step = {"words": words[:, :, t], "context": context, "output": output}
            step |= {"hidden": state[0], "attention_hidden": state[2]}
            for name, values in step.items():
                record(name, ops.convert_to_numpy(values)[not_padding])
    return {name: np.concatenate(values).astype("float64") for name, values in activations.items()}
