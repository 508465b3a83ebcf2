import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def generator():
    """The model that ships."""
    from generate_captions import CaptionGenerator

    return CaptionGenerator.load(ROOT / "artifacts")


@pytest.fixture(scope="session")
def flickr8k():
    """The real Flickr8k, where there is one."""
    folder = Path(os.environ.get("FLICKR8K_DIR", ROOT.parent / "shared" / "flickr8k"))
    if not folder.is_dir():
        pytest.skip("Flickr8k is not here; set FLICKR8K_DIR to its folder to run this test")
    return folder
