import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[threads] = "1"  # there are enough processes for all cores


def pytest_ignore_collect(collection_path, config):
    """Without slow tests, files and folders that hold nothing else are not imported: TensorFlow takes five seconds."""
    if config.option.markexpr != "not slow":
        return None
    files = list(collection_path.rglob("test_*.py")) if collection_path.is_dir() else [collection_path]
    slow = (re.search("^pytestmark = .*slow", path.read_text(), re.MULTILINE) for path in files)
    return True if files and all(slow) else None


def pytest_xdist_auto_num_workers():
    """One more than there are cores: tests also wait, for servers, browsers and kernels."""
    return (os.cpu_count() or 1) + 1


LONG = [
    *("test_notebooks", "test_notebooks_encoders", "test_workers", "test_bulk_cluster"),
    *("test_access", "test_image_workers", "test_gallery", "test_export"),
    *("test_teacher_forcing", "test_openapi", "test_shipped_model", "test_page", "test_video_page"),
]


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process ends alone with one."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def generator():
    """The model that ships."""
    from captioning.generator import CaptionGenerator

    return CaptionGenerator.load(ROOT / "artifacts")


@pytest.fixture(scope="session")
def image_workers():
    """The processes that read photos. The apps of all tests share them, because they take half a second to start."""
    from captioning.image_workers import ImageWorkers

    with ImageWorkers(2) as workers:
        yield workers


@pytest.fixture
def shared_image_workers(image_workers, monkeypatch):
    """`create_app` takes the shared `image_workers`."""
    monkeypatch.setattr("web.model.ImageWorkers", lambda: image_workers)


@pytest.fixture(scope="session")
def flickr8k():
    """The folder of the real Flickr8k: FLICKR8K_DIR, or data/flickr8k, or one beside this repository."""
    places = [os.environ.get("FLICKR8K_DIR"), ROOT / "data" / "flickr8k", *ROOT.parent.glob("*/flickr8k")]
    for folder in filter(None, places):
        if Path(folder).is_dir():
            return Path(folder)
    pytest.skip("the real Flickr8k is not here; set FLICKR8K_DIR to its folder")


@pytest.fixture(scope="session")
def tiny_encoder():
    """An encoder with random weights, far smaller than those of `ENCODERS`."""
    import encoders

    from captioning.network.encoder import ENCODERS

    ENCODERS["mobilenet"] = encoders.MOBILENET
    yield encoders.tiny_encoder()
    del ENCODERS["mobilenet"]


@pytest.fixture(scope="session")
def tiny_encode(tiny_encoder):
    """`tiny_encoder`, converted to LiteRT."""
    from captioning.network.export import quantized_encoder

    return quantized_encoder(tiny_encoder)


@pytest.fixture
def uncompiled():
    """Functions run without compilation, which takes seconds for a search. They compute the same."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
