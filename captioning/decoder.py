"""The decoders: region features + words so far → the next word. Keras layers and `keras.ops` only.

Both decoders follow one protocol, used alike by teacher forcing and by search:

- ``start(features)`` → ``memory, state``: what stays the same for an image, the last of it the `presence` of words (B, 1, V),
  and the state of the LSTMs, each part (B, 1, U), first the output h of the one that says the word;
- ``step(memory, state, inputs)`` → ``context, attention, state``: one word further,
  for (B, C, E) embedded words, C captions (or beams) an image at once;
- ``logits(memory, h, context)`` → (B, N, V), for any N of an image's captions or words.
"""

from __future__ import annotations

import keras
from keras import layers, ops

package = "captioning"
PRESENCE_RANK = 192  # numbers of a photo from which the presence of each word is told
UNSEEN = 0.02  # share of captions that even an unlikely word is granted


class Decoder(keras.Model):
    """What the decoders share: embedding, LSTM, word scores, teacher forcing.

    Args:
        vocabulary_size: V, special tokens included.
        regions, depth: R and D of the encoder's features.
        units: U, size of the LSTM, of the embedding and of the projected regions.
        dropout: share of the numbers that are dropped before the softmax.
        input_dropout: the same for features and embedded words.

    Input: ``[features (B, R, D) float, tokens (B, C, T) int]``, the C captions
    of each image from the start token on. Output: logits (B, C, T, V) float32;
    those at t predict the token at t + 1.
    """

    attends = False  # whether `step` returns attention

    def __init__(self, vocabulary_size, regions, depth, units=512, dropout=0.5, input_dropout=0.3, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "vocabulary_size": vocabulary_size,
            "regions": regions,
            "depth": depth,
            "units": units,
            "dropout": dropout,
            "input_dropout": input_dropout,
        }
        self.units, self.regions, self.vocabulary_size = units, regions, vocabulary_size
        self.embedding = layers.Embedding(
            vocabulary_size, units, keras.initializers.RandomUniform(-0.1, 0.1), name="embedding"
        )
        self.input_dropout = layers.Dropout(input_dropout)
        self.output_dropout = layers.Dropout(dropout)
        self.gates = layers.Dense(4 * units, name="gates")  # of the LSTM that says the word
        self.output_layer = layers.Dense(units, activation="tanh", name="output")
        self.word_bias = self.add_weight(shape=(vocabulary_size,), initializer="zeros", name="word_bias")
        not_trained = {"kernel_initializer": "zeros", "trainable": False, "dtype": "float32"}
        self.glance = layers.Dense(PRESENCE_RANK, name="glance", **not_trained)
        self.shares = layers.Dense(vocabulary_size, name="shares", **not_trained)  # its bias: of all captions

    def get_config(self):
        return {"name": self.name, **self.settings}

    def lstm(self, gates, cell):
        """One step of an LSTM from its gates (…, 4U), before their sigmoid and tanh, and its cell (…, U)."""
        i, f, g, o = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(f + 1.0) * cell + ops.sigmoid(i) * ops.tanh(g)
        return ops.sigmoid(o) * ops.tanh(cell), cell

    def embed(self, tokens, training=False):
        """(…) int → (…, U)."""
        return self.input_dropout(self.embedding(tokens), training=training)

    def presence(self, features):
        """How much likelier each word is in a caption of this photo than in any, as a logarithm: (B, R, D) → (B, 1, V).

        `captioning.presence` fits it after training; until then it is 0.
        """
        share = self.shares(self.glance(ops.mean(ops.cast(features, "float32"), axis=1, keepdims=True)))
        usual = ops.cast(self.shares.bias, "float32")
        return ops.log((ops.relu(share) + UNSEEN) / (ops.relu(usual) + UNSEEN))

    def logits(self, memory, hidden, context, training=False):
        """Scores of the next word (B, N, V), from an output layer tied to the embedding (Press and Wolf, 2017), and the
        word's presence in the photo."""
        said = self.output_layer(ops.concatenate([hidden, context], axis=-1))
        output = self.output_dropout(said, training=training)
        scores = ops.matmul(output, ops.cast(ops.transpose(self.embedding.embeddings), output.dtype))
        return ops.cast(scores, "float32") + ops.cast(self.word_bias, "float32") + memory[-1]

    def call(self, inputs, training=False):
        features, tokens = inputs
        memory, state = self.start(features, training=training)
        _, captions, length = tokens.shape
        state = tuple(ops.repeat(s, captions, axis=1) for s in state)
        words = self.embed(tokens, training=training)
        hidden, contexts = [], []
        for t in range(length):
            context, _, state = self.step(memory, state, words[:, :, t])
            hidden.append(state[0])
            contexts.append(context)
        together = (ops.stack(x, axis=2) for x in (hidden, contexts))
        hidden, context = (ops.reshape(x, (-1, captions * length, x.shape[-1])) for x in together)
        logits = self.logits(memory, hidden, context, training=training)
        return ops.reshape(logits, (-1, captions, length, self.vocabulary_size))


@keras.saving.register_keras_serializable(package)
class LSTMDecoder(Decoder):
    """The pooled image starts an LSTM, as in Show and Tell (Vinyals et al., 2015, arXiv:1411.4555)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.image = layers.Dense(self.units, name="image")

    def start(self, features, training=False):
        pooled = self.input_dropout(ops.mean(ops.cast(features, self.compute_dtype), axis=1, keepdims=True), training=training)
        image = self.image(pooled)
        zero = ops.zeros_like(image)
        return (self.presence(features),), self.lstm(self.gates(ops.concatenate([image, zero], axis=-1)), zero)

    def step(self, memory, state, words):
        hidden, cell = state
        hidden, cell = self.lstm(self.gates(ops.concatenate([words, hidden], axis=-1)), cell)
        return hidden[..., :0], None, (hidden, cell)


@keras.saving.register_keras_serializable(package)
class AttentionDecoder(Decoder):
    """Two LSTMs: one looks at the regions before each word, the other says the word.

    Bottom-Up and Top-Down Attention (Anderson et al., 2018, arXiv:1707.07998), with the gate on what is seen of
    Show, Attend and Tell (Xu et al., 2015, arXiv:1502.03044) and a residual from the first LSTM to the second.
    Regions and what the LSTM looks for are compared in U // 2 numbers.
    """

    attends = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.compared = self.units // 2
        self.project = layers.Dense(self.units, activation="relu", name="project")
        self.keys = layers.Dense(self.compared, name="keys")
        self.query_and_gate = layers.Dense(self.compared + self.units, name="query_and_gate")
        self.energy = layers.Dense(1, use_bias=False, name="energy")
        self.image_gates = layers.Dense(4 * self.units, use_bias=False, name="image_gates")
        self.looking_gates = layers.Dense(4 * self.units, name="looking_gates")  # of the LSTM that looks

    def start(self, features, training=False):
        presence = self.presence(features)
        features = self.input_dropout(ops.cast(features, self.compute_dtype), training=training)
        values = self.project(features)
        mean = ops.mean(values, axis=1, keepdims=True)
        zero = ops.zeros_like(mean)
        return (values, self.keys(values), self.image_gates(mean), presence), (zero, zero, zero, zero)

    def step(self, memory, state, words):
        values, keys, image_gates, _ = memory
        hidden, cell, looking, looking_cell = state
        gates = image_gates + self.looking_gates(ops.concatenate([words, hidden, looking], axis=-1))
        looking, looking_cell = self.lstm(gates, looking_cell)
        query, gate = ops.split(self.query_and_gate(looking), [self.compared], axis=-1)
        energy = self.energy(ops.tanh(ops.expand_dims(keys, 1) + ops.expand_dims(query, 2)))[..., 0]
        attention = ops.softmax(energy, axis=-1)  # (B, C, R)
        context = ops.sigmoid(gate) * ops.matmul(attention, values)
        hidden, cell = self.lstm(self.gates(ops.concatenate([context, looking, hidden], axis=-1)), cell)
        return context, attention, (hidden, cell, looking, looking_cell)


DECODERS = {"lstm": LSTMDecoder, "attention": AttentionDecoder}


def build_decoder(name: str, vocabulary_size: int, regions: int, depth: int, precision: str = "float32",
                  **settings) -> Decoder:
    """A new, built decoder by its name in ``config.pkl``: ``lstm`` or ``attention``.

    ``precision`` is for training, as the `Encoder`'s; what is saved and loaded again computes in float32.
    """
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {name!r}; known: {', '.join(DECODERS)}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        decoder = DECODERS[name](vocabulary_size, regions, depth, name=name, **settings)
    finally:
        keras.config.set_dtype_policy(before)
    build(decoder)
    return decoder


def build(decoder: Decoder) -> None:
    """Create the weights by one tiny pass."""
    s = decoder.settings
    decoder([ops.zeros((1, s["regions"], s["depth"])), ops.zeros((1, 1, 1), dtype="int32")])
