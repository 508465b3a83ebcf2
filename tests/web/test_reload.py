"""SIGHUP: the server changes to a new model without losing a request."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import ROOT, get, picture, raw_request, started, wait_until

from captioning import artifacts

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP does not exist here")


def copy_model(folder: Path) -> Path:
    """A model that says the same with confidence 1."""
    shutil.copytree(ROOT / "artifacts", folder)
    config = artifacts.read_pickle(folder / "config.pkl")
    artifacts.write_pickle(folder / "config.pkl", config | {"confidence": {"en": (0.0, 1.0)}})
    artifacts.write_manifest(folder)
    return folder


def point(link: Path, folder: Path) -> None:
    """Change a symbolic link in one step."""
    new = link.with_name("new")
    new.symlink_to(folder)
    new.replace(link)


@contextmanager
def server(artifacts_dir: Path, **environment: str):
    """A server process with its address; `events` are the lines of its log without those of requests."""
    command = [sys.executable, "app.py", "--port", "0"]
    environment = os.environ | {"ARTIFACTS_DIR": str(artifacts_dir), "CAPTIONER_RATE_LIMIT": ""} | environment
    with started(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        events: list[dict] = []
        log = process.stderr

        def read_log():
            for line in log:
                with suppress(ValueError):
                    events.extend(entry for entry in [json.loads(line)] if "event" in entry)

        reader = threading.Thread(target=read_log)
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        reader.start()
        yield process, ("127.0.0.1", port), events
        process.terminate()
        process.wait(60)
        reader.join()


def confidence(address) -> float:
    body = raw_request(picture()).split(b"\r\n\r\n", 1)[1]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request("http://{}:{}/api/captions".format(*address), body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:  # raises HTTPError unless the status is 200
        return json.load(answer)["photos"][0]["confidence"]


def reloads(address, result: str) -> bool:
    return f'captioner_reloads_total{{result="{result}"}} 1.0' in get(address, "/metrics")


@pytest.mark.slow
def test_reload_loses_no_request(tmp_path):
    """A server process captions for four clients while its model is replaced."""
    link = tmp_path / "current"
    point(link, ROOT / "artifacts")
    with server(link) as (process, address, events), ThreadPoolExecutor(4) as clients:

        def send() -> list[float]:
            """Send photos until the new model has answered some."""
            answers: list[float] = []
            end = time.monotonic() + 180
            while answers.count(1) < 3 and time.monotonic() < end:
                answers.append(confidence(address))
            return answers

        loads = [clients.submit(send) for _ in range(4)]
        wait_until(lambda: 'route="POST /api/captions",status="200"' in get(address, "/metrics"))
        point(link, copy_model(tmp_path / "second"))
        process.send_signal(signal.SIGHUP)
        for load in loads:
            answers = load.result()
            old = answers.index(1)
            assert old > 0
            assert answers[old:] == [1, 1, 1]
        assert [entry["event"] for entry in events] == ["model reloaded"]


@pytest.mark.slow
def test_the_old_model_stays_if_the_new_one_cannot_be_loaded(tmp_path):
    """A server process gets a model one of whose files is damaged as soon as it is ready, then a good one."""
    link = tmp_path / "current"
    point(link, ROOT / "artifacts")
    second = copy_model(tmp_path / "second")
    good = (second / "tokenizer.pkl").read_bytes()
    (second / "tokenizer.pkl").write_bytes(good[:-1] + b"x")
    with server(link) as (process, address, events):
        point(link, second)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(address, "failed"))
        assert confidence(address) < 1
        assert get(address, "/health").strip() == '{"status":"ok"}'
        (second / "tokenizer.pkl").write_bytes(good)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(address, "ok"))
        assert confidence(address) == 1
    failed, loaded = events
    assert failed["event"] == "model not reloaded, the old one serves"
    assert "tokenizer.pkl" in failed["error"]
    assert loaded["event"] == "model reloaded"
