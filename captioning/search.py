"""From features to captions: greedy search and beam search, a whole batch at once, compiled once.

Both run as one graph with no Python a word. The decoder's protocol is in
`captioning.decoder`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from captioning.backend import compiled, quantized
from captioning.decoder import Decoder
from captioning.text import Tokenizer

MAX_LENGTH = 20  # words; 98 % of Flickr8k's captions are shorter
LENGTH_POWER = 0.7  # hypotheses are compared by log probability / length ** LENGTH_POWER
TOGETHER = 5  # photos whose words a processor looks for side by side, in three quarters of the time
IMPOSSIBLE = -1e9
FUNCTION_WORDS = """
a an the some other another and or with without of in on at to for from by as is are be has have that which who where
while it its he him his she her they them their one two three there up down out off over under near next behind between
through along across around against above into onto toward towards away front side top back
""".split()  # what a caption may say more than once


class Hypotheses(NamedTuple):
    """What a search found; K hypotheses an image, the best first.

    tokens: (B, K, T) int32, from the first word to the end token, then pad.
    log_probabilities: (B, K, T) float32 of each token, 0 for pad.
    attention: (B, K, T, R) float32 or (B, K, T, 0) for a decoder without attention.
    scores: (B, K) float32, the length-normalised log probability.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    attention: np.ndarray
    scores: np.ndarray


def make_search(decoder: Decoder, tokenizer: Tokenizer, max_length: int = MAX_LENGTH,
                length_power: float = LENGTH_POWER, frozen: bool = False) -> Callable[[np.ndarray, int], Hypotheses]:
    """Compile beam search for a decoder; beam width 1 is greedy search.

    Each beam grows by its likeliest words; the ``beam_width`` best of all
    survive, finished ones among them, compared by their log probability
    divided by length ** ``length_power`` (length normalisation, Wu et al.,
    2016, arXiv:1609.08144, in its plain form). A caption says a word once,
    but for `FUNCTION_WORDS`. It stops early when all are
    finished; a hypothesis that reaches ``max_length`` ends there.

    Returns a function of features (B, R, D) float and the beam width to
    `Hypotheses`, compiled at the first use of a width. It follows the decoder's weights as they change; or, if
    ``frozen``, it keeps them as they are then, rounded to eight bits, and is
    several times as fast.

    Raises (that function):
        ValueError: the beam width is below 1 or beyond the vocabulary.
    """
    T, V = max_length, decoder.vocabulary_size
    sayable_words = V - 3  # pad, start and unknown are never said
    allowed = sayable(tokenizer, V)
    may_repeat = {tokenizer.pad, tokenizer.end} | {tokenizer.word_index.get(word) for word in FUNCTION_WORDS}
    once = np.array([0.0 if i in may_repeat else IMPOSSIBLE for i in range(V)], "float32")

    def search(features, K):
        memory, state = decoder.start(features)
        B = ops.shape(features)[0]
        state = tuple(ops.repeat(s, K, axis=1) for s in state)
        R = decoder.regions if decoder.attends else 0
        M = min(K + T, V)  # words of a beam to choose from: K that it has not said are among them
        finished_grows = np.array([0.0] + [IMPOSSIBLE] * (M - 1), "float32")  # by nothing, at no cost
        first_rows = K * ops.arange(B)[:, None]
        empty = ops.zeros((B, K), "float32")
        variables = (
            0,
            ops.full((B, K), tokenizer.start, "int32"),
            state,
            # The sum of log probabilities. All beams start alike, so that only the first may grow at first.
            empty + IMPOSSIBLE * ops.cast(ops.arange(K) > 0, "float32"),
            empty,  # words so far, the end token counted
            ops.zeros((B, K), "bool"),  # finished
            ops.full((B, K, T), tokenizer.pad, "int32"),
            ops.zeros((B, K, T), "float32"),
            ops.zeros((B, K, T, R), "float32"),
        )

        def unfinished(t, last, state, total, length, done, *_):
            return ops.logical_and(t < T, ops.logical_not(ops.all(done)))

        def grow(t, last, state, total, length, done, tokens, log_probabilities, maps):
            embedded = decoder.embed(last)
            context, attention, state = decoder.step(memory, state, embedded)
            # What is as large as the vocabulary costs most: one softmax and one choice, the rest is of few words.
            likely, words = ops.top_k(ops.softmax(decoder.logits(memory, state[0], context) + allowed), M)  # (B, K, M)
            said = ops.any(ops.expand_dims(words, -1) == ops.expand_dims(tokens, 2), axis=-1)
            log_p = ops.log(ops.maximum(likely, 1e-30)) + ops.take(allowed, words)
            log_p += ops.where(said, ops.take(once, words), 0.0)
            log_p = ops.where(done[..., None], finished_grows, log_p)
            words = ops.where(done[..., None], tokenizer.pad, words)
            grown = ops.where(done, length, length + 1)
            candidates = (total[..., None] + log_p) / ops.power(grown, length_power)[..., None]
            _, chosen = ops.top_k(ops.reshape(candidates, (B, K * M)), K)
            parent = chosen // M
            word = ops.take_along_axis(ops.reshape(words, (B, K * M)), chosen, axis=1)

            def follow(x):
                """Reorder (B, K, …) by the surviving beams' parents."""
                return ops.take(ops.reshape(x, (B * K, *x.shape[2:])), first_rows + parent, axis=0)

            gained = ops.take_along_axis(ops.reshape(log_p, (B, K * M)), chosen, axis=1)
            was_done = follow(done)
            here = ops.cast(ops.arange(T) == t, "float32")  # (T,)
            tokens = follow(tokens) + ops.cast(here, "int32") * (word - tokenizer.pad)[..., None]
            log_probabilities = follow(log_probabilities) + here * gained[..., None]
            if decoder.attends:
                look = follow(ops.cast(attention, "float32")) * ops.cast(ops.logical_not(was_done), "float32")[..., None]
                maps = follow(maps) + here[:, None] * look[:, :, None]
            return (
                t + 1,
                word,
                tuple(map(follow, state)),
                follow(total) + gained,
                follow(grown),
                ops.logical_or(was_done, word == tokenizer.end),
                tokens,
                log_probabilities,
                maps,
            )

        _, _, _, total, length, _, tokens, log_probabilities, maps = ops.while_loop(unfinished, grow, variables)
        results = tokens, log_probabilities, total / ops.power(length, length_power)
        return (*results, maps) if decoder.attends else results

    @functools.cache
    def compile_for(width):
        if frozen:
            shape = (decoder.regions, decoder.settings["depth"])
            return quantized(lambda features: search(features, width), shape, "float32", TOGETHER)
        return compiled(lambda features: search(features, width), xla=True)

    making = threading.Lock()

    def checked(features, beam_width):
        if not 1 <= beam_width <= sayable_words:
            raise ValueError(f"beam width must be between 1 and {sayable_words}, not {beam_width}")
        with making:
            run = compile_for(beam_width)
        tokens, log_probabilities, scores, *maps = (ops.convert_to_numpy(x) for x in run(features))
        attention = maps[0] if maps else np.zeros((*tokens.shape, 0), "float32")
        return Hypotheses(tokens, log_probabilities, attention, scores)

    return checked


def make_sampler(decoder: Decoder, tokenizer: Tokenizer, samples: int, max_length: int = MAX_LENGTH,
                 temperature: float = 1.0):
    """Compile random sampling: features (B, R, D) → tokens (B, samples, T) int32, drawn word by word.

    The lower the ``temperature``, the more often the likeliest words are drawn. Used by self-critical training.

    Returns that function and its `keras.random.SeedGenerator`.
    """
    allowed = sayable(tokenizer, decoder.vocabulary_size)
    seeds = keras.random.SeedGenerator(0)

    def sample(features):
        memory, state = decoder.start(features)
        B = ops.shape(features)[0]
        state = tuple(ops.repeat(s, samples, axis=1) for s in state)
        last = ops.full((B, samples), tokenizer.start, "int32")
        done = ops.zeros((B, samples), "bool")
        tokens = []
        for _ in range(max_length):
            embedded = decoder.embed(last)
            context, _, state = decoder.step(memory, state, embedded)
            scores = decoder.logits(memory, state[0], context) / temperature + allowed
            drawn = keras.random.categorical(ops.reshape(scores, (-1, decoder.vocabulary_size)), 1, "int32", seeds)
            last = ops.where(done, tokenizer.pad, ops.reshape(drawn, (B, samples)))
            done = ops.logical_or(done, last == tokenizer.end)
            tokens.append(last)
        return ops.stack(tokens, axis=-1)

    return compiled(sample), seeds


def sayable(tokenizer: Tokenizer, vocabulary_size: int) -> np.ndarray:
    """(V,) float32 to add to logits: special tokens other than the end cannot be said."""
    mask = np.zeros(vocabulary_size, "float32")
    mask[[tokenizer.pad, tokenizer.start, tokenizer.unknown]] = IMPOSSIBLE
    return mask
