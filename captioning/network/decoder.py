"""The decoders: region features and the words so far → the next word. Keras layers and `keras.ops` only.

Teacher forcing and search call a decoder in the same three steps:

- ``start(features, copies)`` → ``memory, state``. The memory stays the same for an image; its last part is the
  `Decoder.word_prior`. Each part of the state is (B, copies, …); the first one, (B, copies, U), predicts the word.
- ``step(memory, state, words)`` → ``context, attention, state`` after one more word, for embedded words (B, C, U) of
  C captions or beams per image.
- ``logits(memory, hidden, context)`` → (B, N, V), for any N captions or words of an image.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from captioning.network.backend import dtype_policy
from captioning.network.transformer import TransformerBlock

PACKAGE = "captioning"


class Decoder(keras.Model):
    """What the decoders share: embedding, word scores, word prior, teacher forcing.

    Args:
        vocabulary_size: V, special tokens included.
        regions, depth: R and D of the encoder's features.
        units: U, the size of a hidden state, of the embedding and of the projected regions.
        dropout: the rate before the softmax.
        input_dropout: the rate for features and embedded words.
        word_prior_rank: rank of the regression behind `word_prior`.
        word_prior_floor: added to each word's share of captions, so that no word is ruled out.
        shared: a decoder of another language, with the same units, whose layers this one uses, except for embedding,
            output layer, word bias and word prior. It must have been called before.

    A subclass implements ``step``, as described above, and ``start_image(features (B, R, D), training)`` → ``memory,
    state``: those of ``start`` for one caption per image, so each part of the state is (B, 1, …).

    Input: ``[features (B, R, D) float, tokens (B, C, T) int]``, the C captions of each image from the start token on.
    Output: logits (B, C, T, V) float32; those at t predict the token at t + 1.
    """

    has_attention = False

    def __init__(
        self,
        vocabulary_size,
        regions,
        depth,
        units=512,
        dropout=0.5,
        input_dropout=0.3,
        word_prior_rank=192,
        word_prior_floor=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = {
            "vocabulary_size": vocabulary_size,
            "regions": regions,
            "depth": depth,
            "units": units,
            "dropout": dropout,
            "input_dropout": input_dropout,
            "word_prior_rank": word_prior_rank,
            "word_prior_floor": word_prior_floor,
        }
        self.units, self.regions, self.vocabulary_size = units, regions, vocabulary_size
        self.embedding = layers.Embedding(
            vocabulary_size, units, keras.initializers.RandomUniform(-0.1, 0.1), name="embedding"
        )
        self.input_dropout = layers.Dropout(input_dropout)
        self.output_dropout = layers.Dropout(dropout)
        self.output_layer = layers.Dense(units, activation="tanh", name="output")
        bias = {"shape": (vocabulary_size,), "initializer": "zeros", "autocast": False}  # also in mixed precision
        self.word_bias = self.add_weight(**bias, name="word_bias")
        self.word_prior_floor = word_prior_floor
        precision = keras.config.dtype_policy().variable_dtype  # that of the weights, even in mixed_bfloat16
        fitted = {"kernel_initializer": "zeros", "trainable": False, "dtype": precision}
        self.word_prior_projection = layers.Dense(word_prior_rank, name="word_prior_projection", **fitted)
        self.word_prior_output = layers.Dense(vocabulary_size, name="word_prior_output", **fitted)

    def add_layers(self, shared, **own):
        """Set layers as attributes: those of ``shared``, or if it is None, ``own``."""
        for name, layer in own.items():
            setattr(self, name, getattr(shared, name, layer))

    def get_config(self):
        return {"name": self.name, **self.settings}

    def embed(self, tokens, training=False):
        """(…) int → (…, U)."""
        return self.input_dropout(self.embedding(tokens), training=training)

    def word_prior(self, features):
        """The log ratio of each word's share of this image's captions to its share of all: (B, R, D) → (B, 1, V).

        `captioning.training.word_prior` fits it. Until then it is 0.
        """
        mean = ops.mean(ops.cast(features, "float32"), axis=1, keepdims=True)
        share, share_of_all = self.word_prior_output(self.word_prior_projection(mean)), self.word_prior_output.bias
        share, share_of_all = (ops.relu(ops.cast(x, "float32")) for x in (share, share_of_all))
        return ops.log((share + self.word_prior_floor) / (share_of_all + self.word_prior_floor))

    def logits(self, memory, hidden, context, training=False):
        """Scores of the next word (B, N, V): an output layer tied to the embedding (Press and Wolf, 2017,
        arXiv:1608.05859) plus the word prior."""
        output = self.output_layer(ops.concatenate([hidden, context], axis=-1))
        output = self.output_dropout(output, training=training)
        scores = ops.matmul(output, ops.cast(ops.transpose(self.embedding.embeddings), output.dtype))
        return ops.cast(scores, "float32") + ops.cast(self.word_bias, "float32") + memory[-1]

    def start(self, features, copies=1, training=False):
        """Memory and first state for each image, with the state repeated ``copies`` times."""
        memory, state = self.start_image(features, training)
        return memory, tuple(ops.repeat(s, copies, axis=1) for s in state)

    def call(self, inputs, training=False):
        features, tokens = inputs
        _, captions, length = tokens.shape
        memory, state = self.start(features, captions, training=training)
        words = self.embed(tokens, training=training)
        hidden_states, contexts = [], []
        for t in range(length):
            context, _, state = self.step(memory, state, words[:, :, t])
            hidden_states.append(state[0])
            contexts.append(context)
        stacked = (ops.stack(x, axis=2) for x in (hidden_states, contexts))
        hidden, context = (ops.reshape(x, (-1, captions * length, x.shape[-1])) for x in stacked)
        logits = self.logits(memory, hidden, context, training=training)
        return ops.reshape(logits, (-1, captions, length, self.vocabulary_size))


def lstm_step(gates, cell):
    """One step of an LSTM from its gates (…, 4U) before their activations and its cell state (…, U)."""
    i, f, g, o = ops.split(gates, 4, axis=-1)
    cell = ops.sigmoid(f + 1.0) * cell + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(cell), cell


@keras.saving.register_keras_serializable(PACKAGE)
class LSTMDecoder(Decoder):
    """An LSTM that starts from the mean of the regions, as in Show and Tell (Vinyals et al., 2015, arXiv:1411.4555)."""

    def __init__(self, *args, shared=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_layers(
            shared,
            language_lstm=layers.Dense(4 * self.units, name="language_lstm"),
            image=layers.Dense(self.units, name="image"),
        )

    def start_image(self, features, training):
        mean = ops.mean(ops.cast(features, self.compute_dtype), axis=1, keepdims=True)
        image = self.image(self.input_dropout(mean, training=training))
        zero = ops.zeros_like(image)
        state = lstm_step(self.language_lstm(ops.concatenate([image, zero], axis=-1)), zero)
        return (self.word_prior(features),), state

    def step(self, memory, state, words):
        hidden, cell = state
        hidden, cell = lstm_step(self.language_lstm(ops.concatenate([words, hidden], axis=-1)), cell)
        return hidden[..., :0], None, (hidden, cell)


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionDecoder(Decoder):
    """An attention LSTM and a language LSTM, as in Bottom-Up and Top-Down Attention (Anderson et al., 2018,
    arXiv:1707.07998).

    The context is gated as in Show, Attend and Tell (Xu et al., 2015, arXiv:1502.03044), but with one gate per unit
    instead of one in all. Queries and keys have U // 2 numbers.
    """

    has_attention = True

    def __init__(self, *args, shared=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.attention_units = self.units // 2
        self.add_layers(
            shared,
            language_lstm=layers.Dense(4 * self.units, name="language_lstm"),  # it predicts the word
            project=layers.Dense(self.units, activation="relu", name="project"),
            keys=layers.Dense(self.attention_units, name="keys"),
            query_and_gate=layers.Dense(self.attention_units + self.units, name="query_and_gate"),
            energy=layers.Dense(1, use_bias=False, name="energy"),
            attention_lstm=layers.Dense(4 * self.units, name="attention_lstm"),
            attention_lstm_image=layers.Dense(4 * self.units, use_bias=False, name="attention_lstm_image"),
        )

    def start_image(self, features, training):
        word_prior = self.word_prior(features)
        features = self.input_dropout(ops.cast(features, self.compute_dtype), training=training)
        values = self.project(features)
        mean = ops.mean(values, axis=1, keepdims=True)
        zero = ops.zeros_like(mean)
        return (values, self.keys(values), self.attention_lstm_image(mean), word_prior), (zero, zero, zero, zero)

    def step(self, memory, state, words):
        values, keys, image_gates, _ = memory
        hidden, cell, attention_hidden, attention_cell = state
        gates = image_gates + self.attention_lstm(ops.concatenate([words, hidden, attention_hidden], axis=-1))
        attention_hidden, attention_cell = lstm_step(gates, attention_cell)
        query, gate = ops.split(self.query_and_gate(attention_hidden), [self.attention_units], axis=-1)
        energy = self.energy(ops.tanh(ops.expand_dims(keys, 1) + ops.expand_dims(query, 2)))[..., 0]
        attention = ops.softmax(energy, axis=-1)  # (B, C, R)
        context = ops.sigmoid(gate) * ops.matmul(attention, values)
        gates = self.language_lstm(ops.concatenate([context, attention_hidden, hidden], axis=-1))
        hidden, cell = lstm_step(gates, cell)
        return context, attention, (hidden, cell, attention_hidden, attention_cell)


@keras.saving.register_keras_serializable(PACKAGE)
class TransformerDecoder(Decoder):
    """A pre-norm Transformer (Vaswani et al., 2017, arXiv:1706.03762; Xiong et al., 2020, arXiv:2002.04745).

    Each block has causal self-attention over the words, cross-attention over the regions and a feed-forward layer. In
    search, keys and values of earlier words are cached in the state, so that the cost of a word does not grow.

    Args: as for `Decoder`, and

        blocks: the number of Transformer blocks.
        heads: attention heads of a block; they divide ``units``.
        max_words: the longest caption, end token included.

    Raises:
        ValueError: the heads do not divide the units.
    """

    has_attention = True  # the mean over the heads of the last cross-attention

    def __init__(self, *args, blocks=3, heads=8, max_words=24, shared=None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.units % heads:
            raise ValueError(f"units must be a multiple of the {heads} attention heads, not {self.units}")
        self.settings |= {"blocks": blocks, "heads": heads, "max_words": max_words}
        self.max_words = max_words
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)
        self.add_layers(
            shared,
            project=layers.Dense(self.units, name="project"),
            project_norm=layers.LayerNormalization(name="project_norm"),
            positions=layers.Embedding(max_words, self.units, uniform, name="positions"),
            blocks=[TransformerBlock(self.units, heads, name=f"block{i}") for i in range(blocks)],
            norm=layers.LayerNormalization(name="norm"),
        )

    def start_image(self, features, training):
        word_prior = self.word_prior(features)
        features = self.input_dropout(ops.cast(features, self.compute_dtype), training=training)
        regions = self.project_norm(self.project(features))
        memory = [part for block in self.blocks for part in block.keys_and_values(regions)]
        hidden = ops.zeros_like(regions[:, :1])
        cache = ops.repeat(hidden[:, :, None], self.max_words, axis=2)
        return (*memory, word_prior), (hidden, hidden[..., :1], *[cache] * (2 * len(self.blocks)))

    def step(self, memory, state, words):
        _, count, *caches = state
        positions = ops.arange(self.max_words, dtype=words.dtype)
        here, past = (ops.cast(compare(positions, count), words.dtype) for compare in (ops.equal, ops.less_equal))
        past = ops.expand_dims(past, 2)  # (B, C, 1, max_words)
        x = ops.expand_dims(words + ops.matmul(here, ops.cast(self.positions.embeddings, words.dtype)), 2)
        for i, block in enumerate(self.blocks):
            query, key, value = block.self_attention_inputs(x)
            caches[2 * i] += here[..., None] * key
            caches[2 * i + 1] += here[..., None] * value
            x, attention = block(x, query, caches[2 * i], caches[2 * i + 1], past, memory[2 * i], memory[2 * i + 1])
        hidden = self.norm(x)[:, :, 0]
        return hidden[..., :0], attention[:, :, 0], (hidden, count + 1, *caches)

    def call(self, inputs, training=False):
        features, tokens = inputs
        _, captions, length = tokens.shape
        memory, _ = self.start(features, training=training)
        words = self.embed(tokens, training=training)
        x = words + ops.cast(self.positions(ops.arange(length)), words.dtype)
        causal = ops.cast(ops.tril(ops.ones((length, length))), x.dtype)
        for i, block in enumerate(self.blocks):
            query, key, value = block.self_attention_inputs(x)
            x, _ = block(x, query, key, value, causal, memory[2 * i], memory[2 * i + 1], training=training)
        hidden = ops.reshape(self.norm(x), (-1, captions * length, self.units))
        logits = self.logits(memory, hidden, hidden[..., :0], training=training)
        return ops.reshape(logits, (-1, captions, length, self.vocabulary_size))


DECODERS = {"lstm": LSTMDecoder, "attention": AttentionDecoder, "transformer": TransformerDecoder}


def build_decoder(
    name: str,
    vocabulary_size: int,
    regions: int,
    depth: int,
    precision: str = "float32",
    seed: int | None = None,
    **settings,
) -> Decoder:
    """A new decoder with its weights.

    Args:
        name: a key of `DECODERS`.
        precision: of training, as for `captioning.network.encoder.Encoder`. A decoder that was saved and loaded again
            computes in float32.
        seed: of the first weights, and of all that Keras draws later; None: another one each time.
        settings: the other arguments of `Decoder`.

    Raises:
        ValueError: there is no such decoder.
    """
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {name!r}; known: {', '.join(DECODERS)}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    with dtype_policy(precision):
        decoder = DECODERS[name](vocabulary_size, regions, depth, name=name, **settings)
    decoder([ops.zeros((1, regions, depth)), ops.zeros((1, 1, 1), dtype="int32")])  # creates the weights
    return decoder
