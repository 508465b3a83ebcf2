"""Headers, the rate limit and other origins."""

import http.client

from helpers import Serving, picture

from app import create_app


def test_all_answers_have_the_security_headers(small_app):
    client = small_app.test_client()
    for path in ("/", "/nowhere", "/model/metadata", "/static/page.js"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/").headers["Cache-Control"] == "no-store"


def test_rate_limit_for_each_client(make_app):
    client = make_app(RATE_LIMIT="3 per minute").test_client()
    codes = [client.post("/model/predict").status_code for _ in range(4)]
    assert codes == [400, 400, 400, 429]
    response = client.post("/model/predict")
    assert response.json["status"] == "error" and "Please wait" in response.json["message"]
    assert int(response.headers["Retry-After"]) > 0
    page = client.post("/")
    assert page.status_code == 429 and 'role="alert"' in page.text
    assert client.get("/").status_code == 200 and client.get("/health").status_code == 200
    other = client.post("/model/predict", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert other.status_code == 400
    forged = client.post("/model/predict", headers={"X-Forwarded-For": "192.0.2.8"})
    assert forged.status_code == 429


def test_rate_limit_is_on_by_default(model):
    assert create_app(generator=model).config["RATE_LIMIT"]


def test_rate_limit_for_each_client_behind_a_proxy(make_app, monkeypatch):
    monkeypatch.setenv("CAPTIONER_PROXIES", "1")
    with Serving(make_app(RATE_LIMIT="1 per minute")) as (_, (host, port)):
        codes = []
        for n in (1, 2, 1):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("POST", "/", headers={"X-Forwarded-For": f"192.0.2.{n}"})
            codes.append(connection.getresponse().status)
            connection.close()
    assert codes == [400, 400, 429]


def test_an_ipv6_network_is_one_client(make_app):
    client = make_app(RATE_LIMIT="1 per minute").test_client()

    def post(address):
        return client.post("/", environ_overrides={"REMOTE_ADDR": address}).status_code

    assert [post("2001:db8::1"), post("2001:db8::2"), post("2001:db8:0:1::1")] == [400, 429, 400]
    assert [post("::ffff:192.0.2.1"), post("192.0.2.1"), post("::ffff:192.0.2.2")] == [400, 429, 400]
    assert [post("unknown"), post("unknown")] == [400, 429]


def test_other_origins(make_app, send):
    friend, stranger = "https://friend.example", "https://stranger.example"
    closed, opened = make_app(), make_app(ALLOWED_ORIGINS=[friend])
    assert "Access-Control-Allow-Origin" not in send(closed, picture(), Origin=friend).headers
    assert "Access-Control-Allow-Origin" not in send(opened, picture(), Origin=stranger).headers
    assert send(opened, picture(), Origin=friend).headers["Access-Control-Allow-Origin"] == friend
    asked = opened.test_client().options("/model/predict", headers={"Origin": friend})
    assert "POST" in asked.headers["Access-Control-Allow-Methods"] and "Origin" in asked.vary
