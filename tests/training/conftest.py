"""Tests of training compile searches without XLA, which takes seconds more. `tests/network` tests those with it."""

import pytest

from captioning.network import backend


@pytest.fixture(autouse=True)
def searches_without_xla(monkeypatch):
    monkeypatch.setattr("captioning.network.search.compiled", lambda function, xla=False: backend.compiled(function))
