"""The application as an operator starts it.

Slow: it starts programs.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from helpers import ROOT, started

import app
from web.server import bind

pytestmark = pytest.mark.slow

HEAVY = {"h5py", "keras", "matplotlib", "nltk", "pandas", "tensorflow"}
IMPORTED = """
import json, sys
import app, generate_captions
application = app.create_app()
application.extensions["images"].close()
generate_captions.main(["static/samples/dog.webp"])
print(json.dumps(sorted(sys.modules)))
"""


def test_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert app.main(["--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"Captioner cannot start: 127.0.0.1 port {port} is used by another program. "
        "Choose another: --host or --port of app.py, or make run PORT=…\n"
    )


def test_port_that_is_taken_while_the_model_loads(monkeypatch, capsys):
    """Two programs may bind a port on which neither listens yet."""
    others = []

    def load():
        others.append(bind("127.0.0.1", port))
        others[0].listen()
        return create_app()

    create_app = app.create_app
    monkeypatch.setattr(app, "create_app", load)
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    assert app.main(["--port", str(port)]) == 2
    assert "is used by another program" in capsys.readouterr().err
    others[0].close()


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--host", "203.0.113.1"]])
def test_address_that_cannot_be_used(arguments, capsys):
    assert app.main(arguments) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "absent"))
    assert app.main(["--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Captioner cannot start:")
    assert "absent" in error
    assert error.count("\n") == 1


def test_start():
    """It prints its address, answers, and ends at Ctrl-C."""
    command = [sys.executable, ROOT / "app.py", "--port", "0"]
    with started(command, stderr=subprocess.PIPE) as server:
        ready = re.fullmatch(r"Captioner ready at (http://127\.0\.0\.1:\d+)\n", server.stdout.readline())
        assert ready
        with urllib.request.urlopen(f"{ready[1]}/ready") as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert [json.loads(line)["route"] for line in server.stderr] == ["/ready"]  # and no chatter of libraries


def test_captioning_imports_no_training_library():
    run = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = json.loads(run.stdout.splitlines()[-1])
    assert "captioning.generator" in modules
    assert HEAVY & set(modules) == set()
