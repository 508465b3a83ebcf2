"""A narrower decoder out of a wide one: the units that matter least go, the others take over what they did."""

from __future__ import annotations

import numpy as np
from keras import ops

from captioning.decoder import AttentionDecoder, build_decoder


def prune(decoder: AttentionDecoder, units: int, features: np.ndarray, tokens: np.ndarray) -> AttentionDecoder:
    """A copy of ``decoder`` with ``units`` in place of its U; `captioning.training.Distillation` mends what it lost.

    In each group of units, those stay that move most what reads them (variance times squared weights). The weights
    that read the group are then fitted by least squares, so that the units left give nearly what all gave: channel
    pruning (He et al., 2017, arXiv:1707.06168) for an LSTM.

    Args:
        features: (N, R, D) float of some training images; a few hundred are enough.
        tokens: (N, C, T) int, captions of each, padded with 0.
    """
    U, A = decoder.units, decoder.compared
    seen = _activations(decoder, features, tokens)
    embedding = ops.convert_to_numpy(decoder.embedding.embeddings)
    word_bias = ops.convert_to_numpy(decoder.word_bias)
    [energy] = decoder.energy.get_weights()
    [image_gates] = decoder.image_gates.get_weights()
    (project, project_bias), (keys, keys_bias) = decoder.project.get_weights(), decoder.keys.get_weights()
    (output, output_bias), (gates, gates_bias) = decoder.output_layer.get_weights(), decoder.gates.get_weights()
    looking_gates, looking_bias = decoder.looking_gates.get_weights()
    ask, ask_bias = decoder.query_and_gate.get_weights()

    def moves(name, *readers):
        return seen[name].var(0) * sum((weights**2).sum(1) for weights in readers)

    def strongest(importance, number=units):
        return np.sort(np.argsort(importance)[-number:])

    words = strongest(moves("words", looking_gates[:U]) + seen["said"].var(0) * (embedding**2).sum(0))
    regions = strongest(moves("values", keys, image_gates) + moves("context", gates[:U], output[U:]))
    looking = strongest(moves("looking", gates[U : 2 * U], looking_gates[2 * U :], ask))
    hidden = strongest(moves("hidden", gates[2 * U :], looking_gates[U : 2 * U], output[:U]))
    matches = strongest(energy[:, 0] ** 2 * np.tanh(seen["keys"]).var(0), units // 2)

    def refit(name, kept, weights):
        """Rows for the units that are left: least squares, with a little ridge."""
        x, left = seen[name], seen[name][:, kept]
        square = left.T @ left
        square += 1e-3 * np.trace(square) / units * np.eye(units)
        return np.linalg.solve(square, left.T @ x) @ weights

    def four(weights, kept):
        """Columns of the four gates of an LSTM."""
        return np.concatenate([part[..., kept] for part in np.split(weights, 4, axis=-1)], axis=-1)

    def ask_columns(weights):
        return np.concatenate([weights[..., :A][..., matches], weights[..., A:][..., regions]], axis=-1)

    from_context = [refit("context", regions, weights) for weights in (gates[:U], output[U:])]
    from_looking = [refit("looking", looking, weights) for weights in (gates[U : 2 * U], looking_gates[2 * U :], ask)]
    from_hidden = [refit("hidden", hidden, weights) for weights in (gates[2 * U :], looking_gates[U : 2 * U], output[:U])]
    from_words = refit("words", words, looking_gates[:U])

    # Little dropout: a teacher's probabilities leave less to learn by heart.
    settings = decoder.settings | {"units": units, "dropout": 0.1, "input_dropout": 0.05}
    narrow = build_decoder(decoder.name, precision=decoder.dtype_policy.name, **settings)
    narrow.embedding.set_weights([embedding[:, words]])
    narrow.word_bias.assign(word_bias)
    narrow.glance.set_weights(decoder.glance.get_weights())
    narrow.shares.set_weights(decoder.shares.get_weights())
    narrow.project.set_weights([project[:, regions], project_bias[regions]])
    narrow.keys.set_weights([refit("values", regions, keys)[:, matches], keys_bias[matches]])
    narrow.energy.set_weights([energy[matches]])
    narrow.image_gates.set_weights([four(refit("values", regions, image_gates), looking)])
    narrow.query_and_gate.set_weights([ask_columns(from_looking[2]), ask_columns(ask_bias)])
    looks = np.concatenate([from_words, from_hidden[1], from_looking[1]])
    narrow.looking_gates.set_weights([four(looks, looking), four(looking_bias, looking)])
    says = np.concatenate([from_context[0], from_looking[0], from_hidden[0]])
    narrow.gates.set_weights([four(says, hidden), four(gates_bias, hidden)])
    narrow.output_layer.set_weights([np.concatenate([from_hidden[2], from_context[1]])[:, words], output_bias[words]])
    return narrow


def _activations(decoder: AttentionDecoder, features: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """What the units of each group said while the captions were read: name → (observations, U)."""
    seen: dict[str, list] = {}

    def see(name, values):
        seen.setdefault(name, []).append(ops.convert_to_numpy(values))

    for start in range(0, len(features), 50):
        captions = tokens[start : start + 50]
        memory, state = decoder.start(features[start : start + 50])
        state = tuple(ops.repeat(s, captions.shape[1], axis=1) for s in state)
        see("values", ops.reshape(memory[0], (-1, decoder.units)))
        see("keys", ops.reshape(memory[1], (-1, decoder.compared)))
        words = decoder.embed(captions)
        for t in range(captions.shape[2] - 1):
            real = captions[:, :, t + 1] != 0
            context, _, state = decoder.step(memory, state, words[:, :, t])
            said = decoder.output_layer(ops.concatenate([state[0], context], axis=-1))
            now = {"words": words[:, :, t], "context": context, "hidden": state[0], "looking": state[2], "said": said}
            for name, values in now.items():
                see(name, ops.convert_to_numpy(values)[real])
    return {name: np.concatenate(values).astype("float64") for name, values in seen.items()}
