"""Metrics, access log, request ids and probes."""

import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from captioning.generator import SEARCH_BATCH

log = logging.getLogger("captioner")
access_log = logging.getLogger("captioner.access")
REQUEST_ID = "[A-Za-z0-9._-]{1,64}"  # from a client or a proxy; any other is replaced
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics for Prometheus. Each app has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self.requests = Counter("captioner_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "captioner_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.errors = Counter(
            "captioner_errors",
            "Photos, clips and requests without a result, by reason",
            ["kind"],
            registry=self.registry,
        )
        self.reloads = Counter("captioner_reloads", "Reloads of the model", ["result"], registry=self.registry)
        for result in ("ok", "failed"):
            self.reloads.labels(result)  # an alert on its increase needs the zero
        self.waiting = Gauge(
            "captioner_queue_photos", "Photos that are read or wait for a batch", registry=self.registry
        )
        self.batches = Histogram(
            "captioner_batch_photos", "Photos in a batch", buckets=range(1, SEARCH_BATCH + 1), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "captioner_batch_seconds", "Time of a batch", buckets=SECONDS, registry=self.registry
        )

    def batch(self, size: int, seconds: float) -> None:
        self.batches.observe(size)
        self.batch_seconds.observe(seconds)

    def refusal(self, status: int) -> None:
        """Count and log a request that the server refuses before the application sees it."""
        self.requests.labels("other", status).inc()
        log_event("request refused", status=status)

    def show(self) -> Response:
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE_LATEST)


def add_monitoring(app: Flask) -> None:
    """Count, time and log every request and give it an id; serve `/metrics`, `/health` and `/ready`.

    Neither log nor metrics contain file names or pixels.
    """
    metrics: Metrics = app.extensions["metrics"]
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/ready", view_func=ready)
    if not app.config["METRICS_LISTEN"]:
        app.add_url_rule("/metrics", view_func=metrics.show)

    @app.before_request
    def begin() -> None:
        given = request.headers.get("X-Request-ID", "")
        g.start, g.id = time.perf_counter(), given if re.fullmatch(REQUEST_ID, given) else uuid.uuid4().hex

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.start
        rule = request.url_rule  # None for an unknown address, which is not logged
        route = f"{request.method} {rule.rule}" if rule else "other"
        metrics.requests.labels(route, response.status_code).inc()
        metrics.seconds.labels(route).observe(seconds)
        response.headers["X-Request-ID"] = g.id
        line = {
            "time": now(),
            "id": g.id,
            "method": request.method[:10],
            "route": rule.rule if rule else None,
            "status": response.status_code,
            "milliseconds": round(1000 * seconds, 1),
            "bytes": response.calculate_content_length(),
        }
        access_log.info(json.dumps(line))
        return response


def log_event(event: str, **details: Any) -> None:
    """Log what happens outside of requests."""
    log.info(json.dumps({"time": now(), "event": event, **details}))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def log_requests() -> None:
    """Send requests and events to standard error, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    # Requests that wait a moment for a thread are no problem.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def serve_separately(app: Flask) -> None:
    """Serve the metrics on ``METRICS_LISTEN``, if it is set.

    Raises:
        OSError, OverflowError: the address or port cannot be used.
    """
    if address := app.config["METRICS_LISTEN"]:
        host, _, port = address.rpartition(":")
        start_http_server(int(port), host.strip("[]"), app.extensions["metrics"].registry)


def health() -> ResponseReturnValue:
    """Alive; 503 only if a restart would help."""
    captions = current_app.extensions["captions"]
    if not captions.alive:
        return jsonify(status="error", message="The model has stopped. Start the service again."), 503
    if captions.failing:
        return jsonify(status="degraded", message="The latest batch failed.", failed_batches=captions.failed)
    return jsonify(status="ok")


def ready() -> ResponseReturnValue:
    """Ready from the start, because `create_app` returns with a warm model, until the service stops."""
    if current_app.extensions["stopping"].is_set():
        return jsonify(status="stopping"), 503
    return jsonify(status="ready")
