"""The running API keeps what /openapi.json says, whatever it is sent."""

import subprocess
import sys
import threading
from pathlib import Path

import app as web


def test_schemathesis_finds_nothing(generator):
    listener = web.bind("127.0.0.1", 0)
    app = web.create_app({"RATE_LIMIT": "", "REQUEST_TIMEOUT": 300}, generator)
    server = web.serve(app, listener)
    threading.Thread(target=server.run, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json"
    schemathesis = Path(sys.executable).parent / "schemathesis"
    run = subprocess.run(
        [
            schemathesis,
            "run",
            address,
            "--max-examples",
            "30",
            "--generation-deterministic",
            "--request-timeout",
            "300",
        ],
        cwd=Path(web.__file__).parent,  # where schemathesis.toml is
        capture_output=True,
        check=False,
        text=True,
    )
    server.close()
    app.extensions["captions"].close()
    assert run.returncode == 0, run.stdout
    assert "4 selected / 4 total" in run.stdout
