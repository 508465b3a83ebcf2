"""Errors as pages and as JSON."""

from types import SimpleNamespace

import pytest
from helpers import photo

from app import create_app


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("get", "/nowhere", 404),
        ("put", "/", 405),
        ("get", "/model/predict", 405),
        ("get", "/model/nothing", 404),
        ("put", "/api/captions", 405),
        ("get", "/api/nothing", 404),
        ("post", "/openapi.json", 405),
    ],
)
def test_wrong_address_or_method(small_app, method, path, code):
    response = getattr(small_app.test_client(), method)(path)
    assert response.status_code == code
    assert ("Allow" in response.headers) == (code == 405)
    if path.startswith(("/model", "/api", "/openapi")):
        assert response.json["status"] == "error" and response.json["message"]
    else:
        assert 'role="alert"' in response.text and "<form" in response.text


@pytest.mark.parametrize("path", ["/", "/html", "/model/predict"])
def test_too_large(make_app, send, path):
    response = send(make_app(MAX_CONTENT_LENGTH=2**20), bytes(2**20), to=path)
    assert response.status_code == 413
    assert "more than 1 MB" in (response.json["message"] if path == "/model/predict" else response.text)
    assert ("Alt texts for a web page" in response.text) == (path == "/html")


@pytest.mark.parametrize("path", ["/", "/model/predict"])
def test_an_internal_error_shows_nothing_internal(path):
    def caption_batch(photos, **options):
        raise RuntimeError("secret")

    failing = SimpleNamespace(
        config={"image_size": 32},
        languages=["en"],
        has_loaded=lambda **options: True,
        prepare=lambda photo: photo,
        caption_batch=caption_batch,
    )
    app = create_app(generator=failing)
    response = app.test_client().post(path, data={"image": photo()})
    app.extensions["captions"].close()
    assert response.status_code == 500
    assert "secret" not in response.text and "Traceback" not in response.text
    assert "on our side" in (response.json["message"] if path != "/" else response.text)
