import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def compiles_fast(monkeypatch):
    """Tests that have imported TensorFlow compile without XLA and the graph optimizer, and write short captions."""
    search = sys.modules.get("captioning.network.search")
    if search:
        from training_runs import compile_fast, self_critical, teacher_forcing, write_short_captions

        for module, name in (search, "compiled"), (teacher_forcing, "make_search"), (self_critical, "make_sampler"):
            monkeypatch.setattr(module, name, getattr(module, name))  # restores it afterwards
        compile_fast()
        write_short_captions()
    yield
    if search:
        sys.modules["tensorflow"].config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


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
