"""Metrics, access log and probes."""

import json
import logging

from helpers import photo, picture


def metrics(app) -> str:
    return app.test_client().get("/metrics").text


def test_metrics(small_app, send):
    send(small_app, picture())
    send(small_app, b"no picture")
    small_app.test_client().get("/someone/secret")
    text = metrics(small_app)
    assert 'captioner_requests_total{route="POST /model/predict",status="200"} 1.0' in text
    assert 'captioner_requests_total{route="POST /model/predict",status="415"} 1.0' in text
    assert 'captioner_request_seconds_count{route="POST /model/predict"} 2.0' in text
    assert "captioner_batch_photos_sum 1.0" in text and "captioner_queue_photos 0.0" in text
    assert 'captioner_errors_total{kind="unsupported"} 1.0' in text
    assert "someone" not in text


def test_access_log_has_no_file_names(small_app, caplog):
    caplog.set_level(logging.INFO, "captioner.access")
    client = small_app.test_client()
    responses = [
        client.post("/", data={"image": photo(name="grandmother.png")}),
        client.post("/", data={"image": photo(b"broken", "grandmother.png")}),
        client.get("/grandmother.png?grandmother"),
    ]
    assert "grandmother" not in caplog.text
    lines = [json.loads(record.message) for record in caplog.records if record.name == "captioner.access"]
    for line, response in zip(lines, responses, strict=True):
        assert set(line) == {"time", "id", "method", "route", "status", "milliseconds", "bytes"}
        assert line["id"] == response.headers["X-Request-ID"]
        assert line["status"] == response.status_code and line["bytes"] == len(response.data)
    assert [line["route"] for line in lines] == ["/", "/", None]


def test_what_is_sent_is_counted(small_app, client):
    """The compressed answer, and 304 where the browser has it."""
    headers = {"Accept-Encoding": "br"}
    first = client.get("/static/page.js", headers=headers)
    again = client.get("/static/page.js", headers=headers | {"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    counted = client.get("/metrics").text
    for status in (200, 304):
        assert f'{{route="GET /static/<path:filename>",status="{status}"}} 1.0' in counted


def test_a_range_is_one_of_the_file(client):
    whole = client.get("/static/page.js").data
    part = client.get("/static/page.js", headers={"Accept-Encoding": "br", "Range": "bytes=10-99"})
    assert part.status_code == 206 and part.data == whole[10:100] and "Content-Encoding" not in part.headers


def test_health_and_ready(client):
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/ready").json == {"status": "ready"}


def test_health_reports_a_failed_batch(small_app, model, send):
    client = small_app.test_client()
    model.fail = True
    response = send(small_app, picture())
    assert response.status_code == 500 and "secret" not in response.text
    assert client.get("/health").json["status"] == "degraded"
    model.fail = False
    assert send(small_app, picture()).status_code == 200
    assert client.get("/health").json == {"status": "ok"}


def test_a_stopping_service_is_not_ready_and_takes_no_photos(small_app, send):
    small_app.extensions["stopping"].set()
    assert small_app.test_client().get("/ready").status_code == 503
    assert send(small_app, picture()).status_code == 503
    assert small_app.test_client().get("/health").status_code == 200
