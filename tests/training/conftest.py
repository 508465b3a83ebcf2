import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def searches_without_xla(monkeypatch):
    """Tests of training compile searches without XLA, which takes seconds more. `tests/network` tests those with it."""
    if search := sys.modules.get("captioning.network.search"):  # fast tests do not import TensorFlow
        compiled = search.compiled
        monkeypatch.setattr(search, "compiled", lambda function, xla=False: compiled(function))


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures, one of them broken: name → path."""
    random = np.random.default_rng(0)
    paths = {}
    for i in range(7):
        paths[f"{i}.jpg"] = tmp_path / f"{i}.jpg"
        Image.fromarray(random.integers(0, 255, (40 + i, 50, 3), "uint8")).save(paths[f"{i}.jpg"])
    paths["3.jpg"].write_bytes(paths["3.jpg"].read_bytes()[:100])
    return paths
