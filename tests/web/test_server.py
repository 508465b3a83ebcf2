"""The real server: many clients, limits, and a stop in the middle of work."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import waitress.buffers
from helpers import ROOT, Serving, connect, files_in, get, keep_busy, picture, raw_request, started, upload, wait_until

from web.server import bind


def test_a_client_that_hangs_up_is_dropped(small_app, model):
    captions = small_app.extensions["captions"]
    keep_busy(captions)
    with Serving(small_app) as (server, address), ThreadPoolExecutor(1) as clients:
        with connect(address) as impatient:
            impatient.sendall(raw_request(picture()))
            wait_until(lambda: len(captions) == 1)
        wait_until(lambda: not server.active_channels)
        patient = clients.submit(upload, address)
        wait_until(lambda: len(captions) == 2)
        model.gate.set()
        assert patient.result() == 200
        wait_until(lambda: 'kind="client gone"} 1.0' in get(address, "/metrics"))  # by another thread
        counted = get(address, "/metrics")
        assert 'kind="timeout"' not in counted
        assert 'status="503"' not in counted
    assert model.batches == [1, 1]


def test_more_clients_than_may_wait(make_app, model):
    """Each gets 200 or 503, and afterwards the server works as before."""
    app = make_app(QUEUE_LENGTH=8)
    keep_busy(app.extensions["captions"])
    with Serving(app) as (_, address), ThreadPoolExecutor(60) as clients:
        answers = [clients.submit(upload, address) for _ in range(60)]
        wait_until(lambda: any(answer.done() for answer in answers))
        model.gate.set()
        codes = [answer.result() for answer in answers]
        assert set(codes) == {200, 503} and codes.count(200) >= 8
        assert upload(address) == 200
    assert app.extensions["captions"].failed == 0


def test_uploads_of_all_connections_together_are_limited(small_app):
    with Serving(small_app) as (server, address), connect(address) as first, connect(address):
        server.upload_limit = 2**20
        with suppress(ConnectionError):  # a reset, when the server closes before it has read all
            first.sendall(raw_request(bytes(2**21))[:-9])
            wait_until(lambda: not server.active_channels or first.recv(1) == b"")
        assert upload(address) == 200


def test_answers_that_nobody_reads_are_limited(small_app):
    """The largest one ends, and others get theirs."""
    small_app.add_url_rule("/large", view_func=lambda: bytes(2**25))
    with Serving(small_app) as (server, address), connect(address) as greedy:
        server.answer_limit = 2**20
        greedy.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: any(c.total_outbufs_len > 2**20 for c in list(server.active_channels.values())))
        assert upload(address) == 200
        wait_until(lambda: not server.active_channels)
        assert len(greedy.makefile("rb").read()) < 2**25


def test_an_answer_that_has_been_read_leaves_no_memory(small_app):
    """Also while its client keeps the connection."""
    small_app.add_url_rule("/large", view_func=lambda: bytes(2**25))
    with Serving(small_app) as (server, address), connect(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: any(channel.held > 2**24 for channel in list(server.active_channels.values())))
        client.makefile("rb").read(2**25)
        [channel] = server.active_channels.values()
        wait_until(lambda: not channel.held)
        assert len(channel.outbufs) == 1 and len(channel.outbufs[0].getfile().getbuffer()) < 2**20


def test_an_answer_that_is_not_read_ends(small_app):
    small_app.add_url_rule("/large", view_func=lambda: bytes(2**25))
    with Serving(small_app) as (server, address), connect(address) as idle:
        server.upload_timeout = 0.5
        idle.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: server.active_channels)
        wait_until(lambda: not server.active_channels)


def test_an_answer_that_is_read_slowly_ends(small_app):
    small_app.add_url_rule("/large", view_func=lambda: bytes(2**26))
    with Serving(small_app) as (server, address), connect(address) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert slow.recv(100)
        server.upload_timeout = 0.1
        read = 0
        with suppress(ConnectionError):
            while data := slow.recv(2**16):
                read += len(data)
                time.sleep(0.01)
        assert read < 2**26


@pytest.mark.parametrize(("request_", "code"), [
    (b"POST /model/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 2**18 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
])  # fmt: skip
def test_what_waitress_refuses_is_json_too(small_app, request_, code):
    with Serving(small_app) as (_, address), connect(address) as client:
        with suppress(ConnectionError):
            client.sendall(request_)
        head, body = client.makefile("rb").read().split(b"\r\n\r\n", 1)
        assert int(head.split()[1]) == code and b"application/json" in head
        assert json.loads(body)["status"] == "error" and json.loads(body)["message"].endswith(".")


@pytest.mark.parametrize(("head", "code"), [
    (b"POST /model/predict HTTP/1.1\r\nContent-Length: 99999999999\r\n", 413),
    (b"POST /model/predict HTTP/1.1\r\nContent-Length: 0\r\n", 400),
    (b"GET /health HTTP/1.1\r\n", 200),
])  # fmt: skip
def test_expect_where_no_body_is_wanted(small_app, head, code):
    """curl expects "100 Continue" before it sends more than a megabyte."""
    with Serving(small_app) as (_, address), connect(address) as client:
        client.sendall(head + b"Host: a\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n")
        assert int(client.makefile("rb").readline().split()[1]) == code


def test_expect_before_a_photo(small_app):
    head, body = raw_request(picture()).split(b"\r\n\r\n", 1)
    with Serving(small_app) as (_, address), connect(address) as client:
        client.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        file = client.makefile("rb")
        assert file.readline().split()[1] == b"100" and file.readline() == b"\r\n"
        client.sendall(body)
        assert file.readline().split()[1] == b"200"


def test_refusals_are_counted(small_app):
    with Serving(small_app) as (_, address):
        with connect(address) as client:
            client.sendall(b"nonsense\r\n\r\n")
            client.makefile("rb").read()
        assert 'captioner_requests_total{route="other",status="400"} 1.0' in get(address, "/metrics")


@pytest.mark.parametrize("chunks", [b"1\r\nx\r\n" * 2**16, b"1" * 2**20])
def test_chunks_that_take_much_time_end_the_connection(small_app, chunks):
    with Serving(small_app) as (server, address), connect(address) as client:
        with suppress(ConnectionError):
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(chunks), 2**12):
                client.sendall(chunks[start : start + 2**12])
        wait_until(lambda: not server.active_channels)


def test_a_chunked_photo(small_app):
    head, body = raw_request(picture()).split(b"\r\n\r\n", 1)
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with Serving(small_app) as (_, address), connect(address) as client:
        client.sendall(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
        assert client.makefile("rb").readline().split()[1] == b"200"


def test_a_large_request_on_a_full_disk_is_503(make_app, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(waitress.buffers, "TempfileBasedBuffer", full)
    with Serving(make_app(MAX_CONTENT_LENGTH=2**20)) as (_, address), connect(address) as client:
        with suppress(ConnectionError):
            client.sendall(raw_request(bytes(3 * 2**20), "/api/videos"))
        head, body = client.makefile("rb").read().split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 503") and "no disk space" in json.loads(body)["message"]


def test_large_uploads_stay_in_memory(small_app, monkeypatch):
    """Neither the server nor the application writes a temporary file."""

    def refuse(*_, **__):
        raise AssertionError("written to disk")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", refuse)
    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", refuse)
    monkeypatch.setattr(waitress.buffers, "TempfileBasedBuffer", refuse)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = b"".join(head + picture(n) + bytes(3 * 2**20) + b"\r\n" for n in range(3)) + b"--x--\r\n"
    with Serving(small_app) as (_, address):
        url, headers = "http://{}:{}/".format(*address), {"Content-Type": "multipart/form-data; boundary=x"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            assert answer.read().count(b'<h2 class="caption">') == 3


BUSY_SERVER = """
import sys
import threading
sys.path[:0] = ["tests", "."]
from helpers import Brightness, keep_busy
from app import create_app
from web import metrics, server

def work_after_a_line():
    sys.stdin.readline()
    model.gate.set()

model = Brightness()
model.gate.clear()
threading.Thread(target=work_after_a_line, daemon=True).start()
listener = server.bind("127.0.0.1", 0)
captioner = create_app({}, model)
if "busy" in sys.argv:
    keep_busy(captioner.extensions["captions"])
captioner.add_url_rule("/large", view_func=lambda: bytes(2**25))
metrics.log_requests()
waitress_server = server.make_server(captioner, listener)
server.run(waitress_server, captioner, str(listener.getsockname()[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_what_has_begun(number):
    """Also for a client that keeps its connection: its next photo is refused.

    Slow: it starts a server.
    """
    with started(
        [sys.executable, "-c", BUSY_SERVER, "busy"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        address = "127.0.0.1", int(server.stdout.readline())
        with connect(address) as idle, ThreadPoolExecutor(3) as clients:
            served = [clients.submit(upload, address) for _ in range(3)]
            wait_until(lambda: "captioner_queue_photos 3.0" in get(address, "/metrics"))
            server.send_signal(number)
            time.sleep(0.2)
            idle.sendall(raw_request(picture()))
            refused = idle.recv(9999)
            assert refused.startswith(b"HTTP/1.1 503") and b"Retry-After" in refused
            server.stdin.write("work\n")
            server.stdin.flush()
            assert [answer.result() for answer in served] == [200, 200, 200]
        assert server.wait(60) == 0
        lines = [json.loads(line) for line in server.stderr if line.startswith("{")]
        assert [line["status"] for line in lines if line["method"] == "POST"] == [503, 200, 200, 200]
    with pytest.raises(OSError):
        socket.create_connection(address)


@pytest.mark.slow
def test_the_end_of_its_terminal_stops_the_server():
    """It would keep the port. Slow: it starts a server."""
    ours, theirs = os.openpty()
    take_terminal = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
    command = [sys.executable, "-c", BUSY_SERVER]
    terminal = {"stdin": theirs, "stderr": subprocess.DEVNULL, "start_new_session": True, "preexec_fn": take_terminal}
    with started(command, cwd=ROOT, **terminal) as server:
        os.close(theirs)
        assert server.stdout.readline()
        os.close(ours)
        assert server.wait(60) == 0


@pytest.mark.slow
def test_stop_finishes_answers_that_are_being_sent():
    """Slow: it starts a server."""
    command = [sys.executable, "-c", BUSY_SERVER]
    with started(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        address = "127.0.0.1", int(server.stdout.readline())
        with connect(address) as slow:
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            file = slow.makefile("rb")
            file.read(1000)
            time.sleep(0.5)  # the application is done; the server holds the rest
            server.terminate()
            time.sleep(0.5)
            assert len(file.read()) > 2**25 - 1000
        assert server.wait(60) == 0


@pytest.mark.slow
def test_a_killed_server_starts_again():
    """It leaves no lock and no file behind. Slow: it starts a server."""
    before = files_in(ROOT)
    command = [sys.executable, "-c", BUSY_SERVER]
    with started(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        address = "127.0.0.1", int(server.stdout.readline())
        with connect(address) as client:
            client.sendall(raw_request(picture()))
            time.sleep(0.1)
            server.kill()
    bind(*address).close()
    assert files_in(ROOT) == before
