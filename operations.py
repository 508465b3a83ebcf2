"""What whoever runs the service needs: metrics, an access log, a limit for each client, other origins, a clean stop."""

import json
import logging
import signal
import threading
import time
import uuid
from datetime import datetime, timezone

from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask
from werkzeug.middleware.proxy_fix import ProxyFix

log = logging.getLogger("captioner.access")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What `GET /metrics` tells Prometheus. One registry an app, so that two apps do not share their numbers."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self.requests = Counter("captioner_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "captioner_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.errors = Counter("captioner_errors", "Photos without caption, by reason", ["kind"], registry=self.registry)
        self.waiting = Gauge("captioner_queue_photos", "Photos that wait for a batch", registry=self.registry)
        self.batches = Histogram(
            "captioner_batch_photos", "Photos in a batch", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "captioner_batch_seconds", "Time of a batch", buckets=SECONDS, registry=self.registry
        )

    def batch(self, size: int, seconds: float) -> None:
        self.batches.observe(size)
        self.batch_seconds.observe(seconds)

    def show(self) -> Response:
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE_LATEST)


def watch(app: Flask, metrics: Metrics) -> None:
    """Counts, times and logs every request, and gives it an id. Never what a client calls its files, nor any pixel."""

    @app.before_request
    def begin():
        g.start, g.id = time.perf_counter(), uuid.uuid4().hex

    @app.after_request
    def end(response):
        seconds = time.perf_counter() - g.start
        rule = request.url_rule  # none for an unknown address, which may be anything and is not kept
        route = f"{request.method} {rule.rule}" if rule else "other"
        metrics.requests.labels(route, response.status_code).inc()
        metrics.seconds.labels(route).observe(seconds)
        response.headers["X-Request-ID"] = g.id
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "id": g.id,
            "method": request.method[:10],
            "route": rule.rule if rule else None,
            "status": response.status_code,
            "milliseconds": round(1000 * seconds, 1),
            "bytes": response.calculate_content_length(),
        }
        log.info(json.dumps(line))
        return response


def log_requests() -> None:
    """Sends the access log to standard error, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def limit_clients(app: Flask) -> None:
    """Refuses (429) more requests with photos from one address than `RATE_LIMIT`."""
    if app.config["PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=app.config["PROXIES"], x_proto=app.config["PROXIES"])
    limiter = Limiter(
        get_remote_address,
        app=app,
        application_limits=[app.config["RATE_LIMIT"]],
        enabled=bool(app.config["RATE_LIMIT"]),
        storage_uri="memory://",
        headers_enabled=True,  # Retry-After among them
    )
    limiter.request_filter(lambda: request.method != "POST")  # pages and probes cost nothing


def allow_origins(app: Flask) -> None:
    """Lets the pages of `ALLOWED_ORIGINS` call this service from a browser."""

    @app.after_request
    def allow(response):
        origins = app.config["ALLOWED_ORIGINS"]
        if origins:
            response.vary.add("Origin")
        if request.headers.get("Origin") in origins:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type"
            response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        return response


class Refusal(ErrorTask):
    """What waitress refuses before the app sees it, in the form of the API's errors."""

    messages = {413: "That is far more than this service takes. Choose fewer or smaller photos.",
                431: "The headers of this request are too long."}  # fmt: skip

    def execute(self):
        error = self.request.error
        message = self.messages.get(error.code, "This is not a request that we understand.")
        body = json.dumps({"status": "error", "message": message}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class BoundedChannel(HTTPChannel):
    """A connection to waitress; it is closed when what all of them together upload outgrows `limit` bytes."""

    limit = 512 * 2**20
    error_task_class = Refusal

    def received(self, data):
        channels = self.server.active_channels.values()
        held = sum(r.body_bytes_received for c in channels for r in (*c.requests, c.request) if r)
        if self.request and held > self.limit:
            self.will_close = True
            return False
        return super().received(data)


def run(server, app: Flask) -> None:
    """Runs a waitress server until SIGTERM or Ctrl-C.

    Then what is under way is finished, new work is refused (503), and this returns; after `REQUEST_TIMEOUT` in any
    case. Waitress's own `run` would stop sending at once and cut the answers that are being written.
    """
    stopping: threading.Event = app.extensions["stopping"]

    def stop(*_):
        stopping.set()
        server.pull_trigger()  # wakes the loop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def turn():
        server.asyncore.loop(timeout=1, use_poll=True, map=server._map, count=1)

    while not stopping.is_set():
        turn()
    under_way = [channel for channel in server.active_channels.values() if channel.requests]
    deadline = time.monotonic() + app.config["REQUEST_TIMEOUT"]
    while any(c.connected and (c.requests or c.total_outbufs_len) for c in under_way) and time.monotonic() < deadline:
        turn()
    app.extensions["captions"].close(max(1.0, deadline - time.monotonic()))
    server.task_dispatcher.shutdown(timeout=1)
    server.asyncore.close_all(server._map)
