import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def short_compilation(monkeypatch):
    """Tests of training compile without XLA and graph optimizer, which take seconds. `tests/network` uses both."""
    if search := sys.modules.get("captioning.network.search"):  # fast tests do not import TensorFlow
        import tensorflow as tf

        compiled = search.compiled
        monkeypatch.setattr(search, "compiled", lambda function, xla=False: compiled(function))
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        yield
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    else:
        yield


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
