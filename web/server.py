"""The server: waitress with limits, and a clean stop."""

import json
import math
import os
import signal
import socket
import threading
import time
from typing import Any

import waitress
import waitress.utilities
from flask import Flask
from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.task import ErrorTask

from captioning.cores import CPU_COUNT
from captioning.generator import SEARCH_BATCH
from web.metrics import log_event
from web.model import reload_in_background
from web.uploads import RETRY_AFTER


def bind(host: str, port: int) -> socket.socket:
    """Take the port before the model loads, so that a used one is reported at once. Nobody can connect yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def make_server(app: Flask, listener: socket.socket) -> Any:  # waitress has no types
    """A waitress server that keeps requests with photos, and answers, in memory.

    A request of more than twice ``MAX_CONTENT_LENGTH``, such as one with a large clip, goes to a temporary file without
    a name.

    Why waitress: one process holds one model and one queue. Waitress reads a whole request before it takes a thread,
    so slow clients cost none, and it reports when a client has gone.

    A request that waits for a caption holds a thread. So there is a thread for each photo in the queue and in a batch
    on each core, for each ZIP file, site and picture of attention that may be made at a time, and some more to refuse
    requests and answer probes. A request that is too large is read to its end, up to twice ``MAX_CONTENT_LENGTH`` or
    the size of a clip, because browsers show the error page only then.
    """
    in_memory = 2 * app.config["MAX_CONTENT_LENGTH"]
    clip = app.config["VIDEO_BYTES"] + 2**16 if app.config["VIDEO_JOBS"] else 0
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=app.config["QUEUE_LENGTH"] + CPU_COUNT * SEARCH_BATCH + 24,
        connection_limit=1000,
        asyncore_use_poll=True,  # more than 1024 open files
        clear_untrusted_proxy_headers=not app.config["PROXIES"],  # ProxyFix reads them
        channel_request_lookahead=1,  # notices during a request that the client has gone
        recv_bytes=2**16,
        max_request_body_size=max(in_memory, clip),
        inbuf_overflow=in_memory,
        outbuf_overflow=in_memory,
    )
    server.channel_class, server.count_refusal = BoundedChannel, app.extensions["metrics"].refusal
    server.upload_timeout = app.config["UPLOAD_TIMEOUT"]
    server.ordinary_length = app.config["MAX_CONTENT_LENGTH"]
    server.upload_limit = max(512 * 2**20, 3 * clip)
    server.answer_limit = 512 * 2**20
    return server


REFUSALS = {
    413: "This upload is too large. Send fewer or smaller files.",
    431: "The headers of this request are too long.",
    500: "Something went wrong on our side. Please try again.",
    503: "This server has no disk space for clips. Tell its operator.",
}


class DiskFull(waitress.utilities.Error):
    code, reason = 503, "Service Unavailable"


class Refusal(ErrorTask):
    """The answer to a request that waitress refuses before the app sees it, in the form of the API's errors."""

    def execute(self) -> None:
        error = self.request.error
        message = REFUSALS.get(error.code, "The server cannot understand this request.")
        self.channel.server.count_refusal(error.code)
        body = json.dumps({"status": "error", "message": message}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        if error.code == 503:
            self.response_headers.append(("Retry-After", str(RETRY_AFTER)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Nowhere:
    """A buffer of waitress that keeps nothing."""

    def append(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class BoundedChannel(HTTPChannel):
    """A connection.

    It is closed when its request has not fully arrived, or its answer has not been read, after ``UPLOAD_TIMEOUT``; a
    request of n times ``MAX_CONTENT_LENGTH`` has n times as long to arrive. It is also closed when it sends while the
    uploads of all connections together exceed the server's ``upload_limit`` (bytes), and when the answers in memory
    together exceed its ``answer_limit`` and this one is the largest. Waitress itself closes one on which nothing has
    arrived for two minutes.
    """

    error_task_class = Refusal
    request: Any
    answering = 0.0  # since when there is something to send
    held = 0  # bytes of the answer in memory; a buffer keeps what is sent until all is

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.since = time.monotonic()
        else:
            share = max(1.0, self.request.content_length / self.server.ordinary_length)  # a clip may take longer
            if time.monotonic() - self.since > share * self.server.upload_timeout:
                return self.give_up("too slow")
        channels = self.server.active_channels.values()
        held = sum(r.body_bytes_received for c in channels for r in (*c.requests, c.request) if r)
        if self.request and held > self.server.upload_limit:
            return self.give_up("too many uploads at a time")
        body = self.request and self.request.body_rcv
        if isinstance(body, ChunkedReceiver):  # tiny chunks and long lines between them take much time
            overhead = self.request.body_bytes_received - len(body)
            if overhead > len(body) / 8 + 2**16 or len(body.control_line) + len(body.trailer) > 2**12:
                return self.give_up("too many chunks")
        try:
            return super().received(data)
        except OSError:  # the temporary file of a large request cannot be written
            if not isinstance(self.request.body_rcv, FixedStreamReceiver):
                return self.give_up("no disk space")
            self.request.error = DiskFull("")
            self.request.body_rcv.buf = Nowhere()  # the client reads an answer when it has sent all
            return super().received(data)

    def give_up(self, reason: str) -> bool:
        """Close the connection."""
        log_event("upload closed", reason=reason)
        self.will_close = True
        return False

    def write_soon(self, data: Any) -> int:
        """Called by the thread that answers."""
        if not self.total_outbufs_len:
            self.answering = time.monotonic()
        held = {channel: channel.held for channel in list(self.server.active_channels.values())}
        if sum(held.values()) > self.server.answer_limit:
            max(held, key=held.__getitem__).answering = -math.inf  # the largest one ends
            self.server.pull_trigger()
        written = super().write_soon(data)
        if not isinstance(data, ReadOnlyFileBasedBuffer):  # static files stay on the disk
            self.held += len(data)
        return written

    def writable(self) -> bool:
        """Asked at least once a second, also while the client reads nothing."""
        if self.held and not self.total_outbufs_len:
            with self.outbuf_lock:
                if not self.total_outbufs_len:
                    self.outbufs[-1].prune()
                    self.held = 0
        if self.will_close and self.total_outbufs_len:  # waitress would wait until the client reads
            self.handle_close()
            return False
        if self.total_outbufs_len and time.monotonic() - self.answering > self.server.upload_timeout:
            too_many = self.answering == -math.inf
            log_event("answer dropped", reason="too many unread answers" if too_many else "read too slowly")
            self.handle_close()
            return False
        return super().writable()

    def send_continue(self) -> None:
        """Ask for the body, unless the request is refused already or has none."""
        if self.request.completed:
            self.request.expect_continue = False
        else:
            super().send_continue()


def run(server: Any, app: Flask, ready: str) -> None:
    """Print ``ready`` and run the server until SIGTERM or Ctrl-C, or until its terminal is closed. SIGHUP reloads the
    model.

    At the end, finish the requests under way for at most ``REQUEST_TIMEOUT``, refuse new photos (503), and return when
    the pictures that are being opened are done. Waitress's own `run` would cut answers that are being written.
    """
    stopping: threading.Event = app.extensions["stopping"]

    def stop(*_: object) -> None:
        stopping.set()
        server.pull_trigger()  # wakes the loop

    terminal_seen = time.monotonic() if os.isatty(0) else -math.inf

    def has_lost_terminal() -> bool:
        return not os.isatty(0) and time.monotonic() - terminal_seen < 5  # its shell may pass the signal on later

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        reload = reload_in_background(app)
        signal.signal(signal.SIGHUP, lambda *_: stop() if has_lost_terminal() else reload.set())

    print(ready, flush=True)  # now that signals are handled

    def turn() -> None:
        nonlocal terminal_seen
        if os.isatty(0):
            terminal_seen = time.monotonic()
        server.asyncore.loop(timeout=1, use_poll=True, map=server._map, count=1)

    while not stopping.is_set():
        turn()
    under_way = [c for c in server.active_channels.values() if c.requests or c.total_outbufs_len]
    deadline = time.monotonic() + app.config["REQUEST_TIMEOUT"]
    while any(c.connected and (c.requests or c.total_outbufs_len) for c in under_way) and time.monotonic() < deadline:
        turn()
    app.extensions["captions"].close(max(1.0, deadline - time.monotonic()))
    app.extensions["images"].close()
    server.task_dispatcher.shutdown(timeout=5)
    server.asyncore.close_all(server._map)
