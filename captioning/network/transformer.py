"""A block of the `transformer` decoder."""

from keras import layers, ops


class TransformerBlock(layers.Layer):
    """Self-attention, cross-attention and feed-forward layer, each after a layer normalisation and with a residual."""

    def __init__(self, units, heads, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.units, self.heads = units, heads
        self.self_norm, self.cross_norm, self.feed_norm = (layers.LayerNormalization() for _ in range(3))
        self.self_inputs, self.self_output = layers.Dense(3 * units), layers.Dense(units)
        self.cross_query, self.cross_output = layers.Dense(units), layers.Dense(units)
        self.cross_inputs = layers.Dense(2 * units)
        self.feed_hidden, self.feed_output = layers.Dense(4 * units, activation="gelu"), layers.Dense(units)
        self.dropout = layers.Dropout(dropout)

    def keys_and_values(self, regions):
        """Keys and values of the cross-attention: regions (B, R, U) → twice (B, R, U)."""
        return ops.split(self.cross_inputs(regions), 2, axis=-1)

    def self_attention_inputs(self, x):
        """Query, key and value of the self-attention, each (B, C, T, U)."""
        return ops.split(self.self_inputs(self.self_norm(x)), 3, axis=-1)

    def call(self, x, query, key, value, mask, cross_key, cross_value, training=False):
        """Args: x and query (B, C, Q, U); key and value (B, C, T, U); mask (…, Q, T), 1 where a query sees a key; cross
        key and value (B, R, U). Returns x and the cross-attention (B, C, Q, R), the mean over the heads."""
        attended, _ = self.attend(query, key, value, mask)
        x = x + self.dropout(self.self_output(attended), training=training)
        _, captions, length, _ = x.shape
        query = ops.reshape(self.cross_query(self.cross_norm(x)), (-1, 1, captions * length, self.units))
        attended, attention = self.attend(query, cross_key[:, None], cross_value[:, None])
        attended = ops.reshape(attended, (-1, captions, length, self.units))
        attention = ops.reshape(attention, (-1, captions, length, attention.shape[-1]))
        x = x + self.dropout(self.cross_output(attended), training=training)
        fed = self.feed_output(self.feed_hidden(self.feed_norm(x)))
        return x + self.dropout(fed, training=training), attention

    def attend(self, query, key, value, mask=None):
        """Multi-head attention: (B, C, Q, U) and twice (B, C, T, U) → (B, C, Q, U) and its weights (B, C, Q, T)."""

        def split_heads(x):
            return ops.reshape(x, (-1, *x.shape[1:3], self.heads, self.units // self.heads))

        query, key, value = split_heads(query), split_heads(key), split_heads(value)
        scores = ops.einsum("bcqhd,bcthd->bchqt", query, key) / (self.units // self.heads) ** 0.5
        if mask is not None:
            scores += 1e9 * (ops.expand_dims(mask, -3) - 1)
        weights = ops.softmax(scores, axis=-1)
        attended = ops.einsum("bchqt,bcthd->bcqhd", weights, value)
        return ops.reshape(attended, (-1, *attended.shape[1:3], self.units)), ops.mean(weights, axis=2)
