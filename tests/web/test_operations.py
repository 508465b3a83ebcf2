"""What operators set up: API keys, metrics elsewhere, request ids, traces, and slow uploads."""

import base64
import gzip
import json
import logging
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers import ROOT, Serving, connect, get, picture, raw_request, wait_until

from app import main
from benchmarks.slow_uploads import caption_for, slow_uploads
from web.metrics import serve_separately

KEY = "correct-horse-battery-staple"
PASSWORD = base64.b64encode(f"anybody:{KEY}".encode()).decode()


# API keys


@pytest.fixture
def guarded(make_app):
    return make_app(API_KEYS=["another-key", KEY])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": "ключ".encode().decode("latin-1")},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Basic nonsense"},
        {"Authorization": "Basic \xe9"},
        {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()},
    ],
)
@pytest.mark.parametrize("path", ["/api/captions", "/api/attention", "/model/predict"])
def test_the_api_refuses_a_request_without_a_key(guarded, send, path, headers):
    response = send(guarded, picture(), to=path, **headers)
    assert response.status_code == 401
    assert response.json["status"] == "error"
    assert "key" in response.json["message"]
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert guarded.extensions["captions"].generator.batches == []


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}, {"Authorization": f"Basic {PASSWORD}"}]
)
def test_the_api_answers_a_request_with_a_key(guarded, send, headers):
    assert send(guarded, picture(), **headers).status_code == 200
    assert guarded.test_client().get("/model/metadata", headers=headers).status_code == 200


def test_the_page_asks_for_a_key_as_a_password(guarded):
    client = guarded.test_client()
    for answer in (client.get("/"), client.post("/"), client.post("/download"), client.get("/nowhere")):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert 'role="alert"' in answer.text
    assert client.get("/", headers={"Authorization": f"Basic {PASSWORD}"}).status_code == 200


def test_probes_metrics_and_documentation_need_no_key(guarded):
    client = guarded.test_client()
    for path in ("/health", "/ready", "/metrics", "/openapi.json", "/docs", "/static/page.js"):
        assert client.get(path).status_code == 200
    assert client.options("/api/captions").status_code == 200  # a browser asks this without a key


def test_openapi_names_the_ways_to_send_a_key(guarded, make_app):
    document = guarded.test_client().get("/openapi.json").json
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["header"]["name"] == "X-API-Key"
    assert {name for choice in document["security"] for name in choice} == set(schemes)
    assert all("401" in operation["responses"] for path in document["paths"].values() for operation in path.values())
    document = make_app().test_client().get("/openapi.json").json
    assert "security" not in document
    assert "401" not in document["paths"]["/api/captions"]["post"]["responses"]


def test_wrong_keys_count_for_the_rate_limit(make_app, send):
    app = make_app(API_KEYS=[KEY], RATE_LIMIT="2 per minute")
    codes = [send(app, picture(), **{"X-API-Key": f"guess-{n}"}).status_code for n in range(3)]
    assert codes == [401, 401, 429]


def test_a_key_cannot_be_guessed_by_get(make_app):
    client = make_app(API_KEYS=[KEY], RATE_LIMIT="2 per minute").test_client()

    def get(headers):
        return client.get("/model/metadata", headers=headers).status_code

    assert [get({"X-API-Key": KEY}) for _ in range(3)] == [200] * 3
    assert [get({}) for _ in range(3)] == [401] * 3
    assert [get({"X-API-Key": "guess"}), get({"Authorization": "Bearer guess"})] == [401, 401]
    assert get({"X-API-Key": "guess"}) == 429
    assert client.get("/nothing", headers={"X-API-Key": "guess"}).status_code == 429
    assert client.put("/model/metadata", headers={"X-API-Key": "guess"}).status_code == 429


def test_keys_are_not_logged(guarded, send, caplog):
    caplog.set_level(logging.DEBUG)
    send(guarded, picture(), **{"X-API-Key": KEY})
    send(guarded, picture(), Authorization=f"Bearer {KEY}x")
    assert KEY not in caplog.text


@pytest.mark.parametrize("value", [KEY, json.dumps(KEY), f'["{KEY}", ""]', f'["{KEY} and more"]', f'["{KEY}", 1]'])
def test_wrong_keys_are_not_shown(value, monkeypatch, capsys):
    monkeypatch.setenv("CAPTIONER_API_KEYS", value)
    assert main(["--port", "0"]) == 2
    printed = capsys.readouterr().err
    assert "CAPTIONER_API_KEYS" in printed
    assert KEY not in printed


# Metrics on another address


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_metrics_on_another_port(make_app, send):
    port = free_port()
    app = make_app(METRICS_LISTEN=f"127.0.0.1:{port}")
    serve_separately(app)
    assert send(app, picture()).status_code == 200
    assert app.test_client().get("/metrics").status_code == 404
    found = get(("127.0.0.1", port), "/metrics")
    assert 'captioner_requests_total{route="POST /model/predict",status="200"} 1.0' in found
    assert "captioner_queue_photos 0.0" in found


@pytest.mark.parametrize("value", ["9100", "localhost", "127.0.0.1:http"])
def test_a_wrong_metrics_address_is_named(value, monkeypatch, capsys):
    monkeypatch.setenv("CAPTIONER_METRICS_LISTEN", value)
    assert main(["--port", "0"]) == 2
    assert "CAPTIONER_METRICS_LISTEN" in capsys.readouterr().err


@pytest.mark.slow
def test_a_used_metrics_port_is_named(monkeypatch, capsys):
    """Slow: it starts the app."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("CAPTIONER_METRICS_LISTEN", f"127.0.0.1:{listener.getsockname()[1]}")
        assert main(["--port", "0"]) == 2
    assert "is used by another program" in capsys.readouterr().err


# Request ids


@pytest.mark.parametrize(("given", "kept"), [
    ("4bf92f35-77b3.A_1", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a b", False), ('a"b', False),
    ("é", False),
])  # fmt: skip
def test_a_valid_request_id_is_kept(small_app, caplog, given, kept):
    caplog.set_level(logging.INFO, "captioner.access")
    answers = [small_app.test_client().get(path, headers={"X-Request-ID": given}) for path in ("/health", "/nowhere")]
    lines = [json.loads(record.message) for record in caplog.records if record.name == "captioner.access"]
    for answer, line in zip(answers, lines, strict=True):
        assert answer.headers["X-Request-ID"] == line["id"]
        assert (line["id"] == given) == kept
        assert line["id"]


# Traces


@pytest.fixture
def collector():
    """A server for OTLP over HTTP, its address, and the bodies that it got."""
    pytest.importorskip("opentelemetry.instrumentation.flask", reason="OpenTelemetry is not installed")
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


def test_spans_of_a_request(make_app, send, monkeypatch):
    pytest.importorskip("opentelemetry.instrumentation.flask", reason="OpenTelemetry is not installed")
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.trace import export
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda: memory)
    monkeypatch.setattr(export, "BatchSpanProcessor", export.SimpleSpanProcessor)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    app = make_app()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert send(app, picture(), picture(1), to="/api/captions", **headers).status_code == 200
    app.test_client().get("/health")
    *parts, request = memory.get_finished_spans()
    assert request.name == "POST /api/captions"
    assert [part.name for part in parts] == ["read photo"] * 2 + ["wait for caption"] * 2
    assert all(part.parent and part.parent.span_id == request.context.span_id for part in parts)
    assert {f"{span.context.trace_id:x}" for span in (request, *parts)} == {trace}


@pytest.mark.slow
def test_traces_are_sent_where_the_environment_says(collector, monkeypatch):
    """A process of its own, because OpenTelemetry sends what is left when the process ends."""
    address, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-captioner")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # milliseconds; all is sent at the end
    code = """if True:
        import sys
        sys.path[:0] = ["tests", "."]
        from app import create_app
        from helpers import Brightness, photo
        app = create_app({}, Brightness())
        assert app.test_client().post("/api/captions", data={"image": photo()}).status_code == 200
        """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    (sent,) = [
        resource for body in bodies for resource in ExportTraceServiceRequest.FromString(unzip(body)).resource_spans
    ]
    assert "our-captioner" in str(sent.resource)
    names = [span.name for scope in sent.scope_spans for span in scope.spans]
    assert sorted(names) == ["POST /api/captions", "read photo", "wait for caption"]


def unzip(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


@pytest.mark.slow
def test_without_its_variables_opentelemetry_is_not_imported():
    """A process of its own, because other tests import it."""
    code = "import sys, app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0


# Slow uploads


@pytest.mark.slow
def test_an_upload_that_takes_too_long_is_closed(make_app):
    """Slow: it waits for time-outs."""
    app = make_app(UPLOAD_TIMEOUT=1)
    with Serving(app) as (server, address), slow_uploads(address, 3) as slow, connect(address) as patient:
        patient.sendall(raw_request(picture()))
        assert patient.recv(9999).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not slow)
        assert len(server.active_channels) == 1  # the patient one may stay, because its request has arrived


@pytest.mark.slow
def test_slow_uploads_do_not_delay_others(make_app, model):
    """Photos are captioned while 200 connections send one byte a second. Slow: it waits for some of these bytes."""
    with Serving(make_app()) as (server, address), slow_uploads(address, 200) as clients:
        caption_for(address, 3)
        assert len(clients) == 200  # none is closed or done
        wait_until(lambda: len(server.active_channels) == 200)
