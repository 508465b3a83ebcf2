"""The decoders as parameters of tests."""

import numpy as np
import pytest

from captioning.network.decoder import DECODERS, Decoder, build_decoder
from captioning.text import Tokenizer

SHIPPED = "attention"
EVERY_DECODER = [pytest.param(name, marks=[pytest.mark.slow] if name != SHIPPED else []) for name in DECODERS]
"""With the others, a test is slow: each is built and compiled anew."""


def decisive_decoder(name: str, tokenizer: Tokenizer, regions: int, depth: int) -> Decoder:
    """A tiny decoder whose random weights are large, so that words have clearly different probabilities."""
    decoder = build_decoder(name, len(tokenizer), regions, depth, units=8, word_prior_rank=5)
    random = np.random.default_rng(3)
    for weight in decoder.weights:
        weight.assign(random.normal(size=weight.shape) * 0.7)
    return decoder
