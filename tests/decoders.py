"""Decoders for tests."""

from typing import Any

import numpy as np

from captioning.network.decoder import Decoder, build_decoder
from captioning.text import Tokenizer


def decisive_decoder(name: str, tokenizer: Tokenizer, regions: int, depth: int) -> Decoder:
    """A tiny decoder whose random weights are large, so that words have clearly different probabilities."""
    fewer: dict[str, Any] = {"blocks": 2} if name == "transformer" else {}
    decoder = build_decoder(name, len(tokenizer), regions, depth, units=8, word_prior_rank=5, **fewer)
    random = np.random.default_rng(3)
    for weight in decoder.weights:
        weight.assign(random.normal(size=weight.shape) * 0.7)
    return decoder
