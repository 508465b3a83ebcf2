"""The decoders as parameters of tests."""

import pytest

from captioning.network.decoder import DECODERS

SHIPPED = "attention"
EVERY_DECODER = [pytest.param(name, marks=[pytest.mark.slow] if name != SHIPPED else []) for name in DECODERS]
"""With the others, a test is slow: each is built and compiled anew."""
