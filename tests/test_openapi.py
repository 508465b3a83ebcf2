"""The running API answers as /openapi.json says, whatever it is sent."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT, remembering

from app import create_app
from web.server import bind, make_server


@pytest.mark.slow
@pytest.mark.usefixtures("shared_image_workers")
def test_schemathesis_finds_nothing(generator):
    """Slow: it sends hundreds of requests."""
    listener = bind("127.0.0.1", 0)
    app = create_app({"RATE_LIMIT": "", "REQUEST_TIMEOUT": 300, "VIDEO_JOBS": 1000}, remembering(generator))
    server = make_server(app, listener)
    threading.Thread(target=server.run, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json"
    schemathesis = Path(sys.executable).parent / "schemathesis"
    run = subprocess.run(
        [
            schemathesis,
            "run",
            address,
            "--max-examples",
            "15",
            "--generation-deterministic",
            "--request-timeout",
            "300",
        ],
        cwd=ROOT,  # where schemathesis.toml is
        capture_output=True,
        check=False,
        text=True,
    )
    server.close()
    app.extensions["captions"].close()
    assert run.returncode == 0, run.stdout
    assert "7 selected / 7 total" in run.stdout
