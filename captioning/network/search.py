"""From features to captions: beam search and sampling, a whole batch at a time, as one graph."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from captioning.exported import Hypotheses
from captioning.network.backend import compiled
from captioning.network.decoder import Decoder
from captioning.text import Tokenizer

MAX_LENGTH = 20  # words; 98 % of Flickr8k's captions are shorter
LENGTH_POWER = 0.7  # hypotheses are compared by log probability / length ** LENGTH_POWER
NEVER = -1e9  # log probability of what must not be chosen


def make_search(
    decoder: Decoder, tokenizer: Tokenizer, max_length: int = MAX_LENGTH, length_power: float = LENGTH_POWER
) -> Callable[[np.ndarray, int], Hypotheses]:
    """Compile `beam_search` for a decoder in training.

    Returns a function of features (B, R, D) float and the beam width. It is compiled at the first use of a beam width
    and follows the decoder's weights as they change.

    Raises:
        ValueError: the decoder cannot make captions of ``max_length`` words and an end token; by that function: the
            beam width is below 1 or beyond the vocabulary.
    """
    longest = getattr(decoder, "max_words", max_length + 1) - 1
    if max_length > longest:
        raise ValueError(f"this decoder makes captions of at most {longest} words, not {max_length}: raise max_words")

    @functools.cache
    def compile_for(beam_width: int):
        def search(features):
            return beam_search(decoder, tokenizer, features, beam_width, max_length, length_power)

        return compiled(search, xla=True)

    def search(features, beam_width: int) -> Hypotheses:
        if not 1 <= beam_width <= max_beam_width(decoder):
            raise ValueError(f"beam width must be between 1 and {max_beam_width(decoder)}, not {beam_width}")
        found = {name: ops.convert_to_numpy(x) for name, x in compile_for(beam_width)(features).items()}
        return Hypotheses(found["tokens"], found["log_probabilities"], found.get("attention"), found["scores"])

    return search


def beam_search(
    decoder: Decoder, tokenizer: Tokenizer, features, beam_width: int, max_length: int, length_power: float
) -> dict:
    """Beam search as a graph; beam width 1 is greedy search.

    Each beam is extended by its likeliest words. The ``beam_width`` best of all hypotheses survive, finished ones among
    them, compared by log probability / length ** ``length_power`` (length normalisation, Wu et al., 2016,
    arXiv:1609.08144, in its plain form). A caption contains a word at most once, except the function words of its
    language. The search stops when all hypotheses are finished or have ``max_length`` words.

    Args:
        features: a tensor (B, R, D) float.

    Returns the fields of `Hypotheses` by name, without ``attention`` for a decoder that has none.
    """
    K, T, V = beam_width, max_length, decoder.vocabulary_size
    token_mask = special_token_mask(tokenizer, V)
    repeatable = {tokenizer.pad, tokenizer.end} | tokenizer.function_words
    repeat_mask = np.array([0.0 if i in repeatable else NEVER for i in range(V)], "float32")
    memory, state = decoder.start(features, K)
    B = ops.shape(features)[0]
    R = decoder.regions if decoder.has_attention else 0
    M = min(K + T, V)  # candidates of a beam: at most T are repeated, so at least K are not
    finished_log_p = np.array([0.0] + [NEVER] * (M - 1), "float32")  # a finished beam gets a padding token, at no cost
    first_rows = K * ops.arange(B)[:, None]
    empty = ops.zeros((B, K), "float32")
    variables = (
        0,
        ops.full((B, K), tokenizer.start, "int32"),
        state,
        # The sum of log probabilities. All beams are equal at the start, so only the first one may be extended.
        empty + NEVER * ops.cast(ops.arange(K) > 0, "float32"),
        empty,  # length in words, the end token included
        ops.zeros((B, K), "bool"),  # finished
        ops.full((B, K, T), tokenizer.pad, "int32"),
        ops.zeros((B, K, T), "float32"),
        ops.zeros((B, K, T, R), "float32"),
    )

    def unfinished(t, last, state, total, length, done, *_):
        return ops.logical_and(t < T, ops.logical_not(ops.all(done)))

    def extend(t, last, state, total, length, done, tokens, log_probabilities, maps):
        context, attention, state = decoder.step(memory, state, decoder.embed(last))
        # Operations on the whole vocabulary cost most: there is one softmax and one top-k, the rest is on M words.
        likely, words = ops.top_k(ops.softmax(decoder.logits(memory, state[0], context) + token_mask), M)  # (B, K, M)
        repeated = ops.any(ops.expand_dims(words, -1) == ops.expand_dims(tokens, 2), axis=-1)
        log_p = ops.log(ops.maximum(likely, 1e-30)) + ops.take(token_mask, words)
        log_p += ops.where(repeated, ops.take(repeat_mask, words), 0.0)
        log_p = ops.where(done[..., None], finished_log_p, log_p)
        words = ops.where(done[..., None], tokenizer.pad, words)
        new_length = ops.where(done, length, length + 1)
        candidates = (total[..., None] + log_p) / ops.power(new_length, length_power)[..., None]
        _, chosen = ops.top_k(ops.reshape(candidates, (B, K * M)), K)
        parent = chosen // M
        word = ops.take_along_axis(ops.reshape(words, (B, K * M)), chosen, axis=1)

        def follow(x):
            """Reorder (B, K, …) by the parents of the surviving beams."""
            return ops.take(ops.reshape(x, (B * K, *x.shape[2:])), first_rows + parent, axis=0)

        gained = ops.take_along_axis(ops.reshape(log_p, (B, K * M)), chosen, axis=1)
        was_done = follow(done)
        here = ops.cast(ops.arange(T) == t, "float32")  # (T,)
        tokens = follow(tokens) + ops.cast(here, "int32") * (word - tokenizer.pad)[..., None]
        log_probabilities = follow(log_probabilities) + here * gained[..., None]
        if decoder.has_attention:
            running = ops.cast(ops.logical_not(was_done), "float32")[..., None]
            attention = follow(ops.cast(attention, "float32")) * running
            maps = follow(maps) + here[:, None] * attention[:, :, None]
        return (
            t + 1,
            word,
            tuple(map(follow, state)),
            follow(total) + gained,
            follow(new_length),
            ops.logical_or(was_done, word == tokenizer.end),
            tokens,
            log_probabilities,
            maps,
        )

    _, _, _, total, length, _, tokens, log_probabilities, maps = ops.while_loop(unfinished, extend, variables)
    found = {
        "tokens": tokens,
        "log_probabilities": log_probabilities,
        "scores": total / ops.power(length, length_power),
    }
    return found | ({"attention": maps} if decoder.has_attention else {})


def make_sampler(
    decoder: Decoder, tokenizer: Tokenizer, samples: int, max_length: int = MAX_LENGTH, temperature: float = 1.0
):
    """Compile random sampling for self-critical training: features (B, R, D) → tokens (B, samples, T) int32.

    A low ``temperature`` draws the likeliest words more often.

    Returns that function and its `keras.random.SeedGenerator`.
    """
    token_mask = special_token_mask(tokenizer, decoder.vocabulary_size)
    seeds = keras.random.SeedGenerator(0)

    def sample(features):
        memory, state = decoder.start(features, samples)
        shape = (ops.shape(features)[0], samples)
        variables = (
            0,
            ops.full(shape, tokenizer.start, "int32"),
            state,
            ops.zeros(shape, "bool"),  # finished
            ops.full((*shape, max_length), tokenizer.pad, "int32"),
        )

        def unfinished(t, last, state, done, tokens):
            return ops.logical_and(t < max_length, ops.logical_not(ops.all(done)))

        def extend(t, last, state, done, tokens):
            context, _, state = decoder.step(memory, state, decoder.embed(last))
            scores = decoder.logits(memory, state[0], context) / temperature + token_mask
            drawn = keras.random.categorical(ops.reshape(scores, (-1, decoder.vocabulary_size)), 1, "int32", seeds)
            last = ops.where(done, tokenizer.pad, ops.reshape(drawn, shape))
            here = ops.cast(ops.arange(max_length) == t, "int32")
            tokens += here * (last - tokenizer.pad)[..., None]
            return t + 1, last, state, ops.logical_or(done, last == tokenizer.end), tokens

        return ops.while_loop(unfinished, extend, variables)[-1]

    return compiled(sample), seeds


def special_token_mask(tokenizer: Tokenizer, vocabulary_size: int) -> np.ndarray:
    """(V,) float32 to add to logits: rules out all special tokens but the end."""
    mask = np.zeros(vocabulary_size, "float32")
    mask[[tokenizer.pad, tokenizer.start, tokenizer.unknown]] = NEVER
    return mask


def max_beam_width(decoder: Decoder) -> int:
    """The number of tokens that can follow in a caption, the end included; no beam can be wider."""
    return decoder.vocabulary_size - 3
