"""The API as a client sees it."""

import io
import json
import threading
from unittest.mock import patch

import numpy as np
import pytest
from helpers import broken, photo, picture
from PIL import Image

from web import api
from web.attention import draw_attention

WORD = {"text": "a", "probability": 1, "attention": [[0] * 7] * 7}


def test_predict(post, expected):
    response = post(photo(), to="/model/predict")
    assert response.status_code == 200
    assert response.json["status"] == "ok"
    alternatives = expected().alternatives
    assert [p["index"] for p in response.json["predictions"]] == [str(n) for n in range(len(alternatives))]
    assert [p["caption"] for p in response.json["predictions"]] == [c.text for c in alternatives]
    for prediction, alternative in zip(response.json["predictions"], alternatives):
        assert set(prediction) == {"index", "caption", "probability"}
        assert prediction["probability"] == pytest.approx(alternative.probability, rel=1e-3)


def test_predict_and_the_generator_agree_on_a_large_photo(post, expected):
    data = picture(5, (2400, 1800), "JPEG")
    assert post(photo(data), to="/model/predict").json["predictions"][0]["caption"] == expected(data).text


def test_the_content_of_a_file_counts_and_not_its_name_or_type(post):
    assert post(photo(name="file.txt", type="text/plain"), to="/model/predict").status_code == 200
    assert post(photo(b"GIF8", "a.png", "image/png"), to="/model/predict").status_code == 415


@pytest.mark.parametrize(
    ("photos", "code", "message"),
    [([], 400, "Send one photo"), ([1, 2], 400, "Send one photo"), (["broken"], 415, "not a photo that we can read")],
)
def test_predict_refuses(post, photos, code, message):
    response = post(*[broken() if kind == "broken" else photo(picture(kind)) for kind in photos], to="/model/predict")
    assert response.status_code == code
    assert response.json["status"] == "error" and message in response.json["message"]


def test_captions_of_several_photos(post, expected):
    files = [photo(picture(1), "one.png"), broken("two.jpg"), photo(picture(3), "three.png")]
    response = post(*files, to="/api/captions", alternatives=2)
    assert response.status_code == 200 and response.json["status"] == "ok"
    one, two, three = response.json["photos"]
    assert two["image"] == "two.jpg" and "not a photo that we can read" in two["error"]
    assert set(two) == {"image", "error", "error_status"} and two["error_status"] == 415
    for shown, name, seed in ((one, "one.png", 1), (three, "three.png", 3)):
        best = expected(picture(seed))
        assert shown["image"] == name and shown["caption"] == best.text
        assert shown["probability"] == pytest.approx(best.probability, rel=1e-3)
        assert shown["confidence"] == pytest.approx(best.confidence, abs=1e-3)
        assert [other["caption"] for other in shown["alternatives"]] == [a.text for a in best.alternatives[:2]]
        assert set(shown["alternatives"][0]) == {"caption", "probability", "confidence"}


@pytest.mark.parametrize("language", ["en", "de", "fr", "cs"])
def test_captions_in_a_language(post, generator, language):
    [answer] = post(photo(), to="/api/captions", language=language).json["photos"]
    assert answer["language"] == language
    assert answer["caption"] == generator.caption(picture(), language=language).text


def test_a_language_that_the_model_does_not_have(post):
    response = post(photo(), to="/api/captions", language="tlh")
    assert response.status_code == 400
    assert response.json["message"] == "language: The model has captions in: en, de, fr, cs."


def test_english_unless_asked(client, generator):
    german = {"Accept-Language": "de"}
    for path in ("/api/captions", "/model/predict"):
        answer = client.post(path, data={"image": photo()}, headers=german).json
        caption = (answer.get("photos") or answer["predictions"])[0]["caption"]
        assert caption == generator.caption(picture()).text


def test_the_openapi_document_lists_the_languages(client, generator):
    document = client.get("/openapi.json").json
    operation = document["paths"]["/api/captions"]["post"]
    assert not any("anyOf" in parameter["schema"] for parameter in operation["parameters"]), "null cannot be sent"
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    word = document["components"]["schemas"]["Word"]["properties"]["text"]
    assert (word["maxLength"], "pattern" in word) == (40, False), "Python's re does not know \\p{L}"
    parameters = operation["parameters"]
    [language] = [p["schema"] for p in parameters if p["name"] == "language"]
    assert language["enum"] == generator.languages and language["default"] == "en"


@pytest.mark.parametrize(
    ("photos", "code", "message"),
    [(0, 400, "may be repeated"), (["a", "b"], 415, "not a photo that we can read"), (21, 400, "at most 20")],
)
def test_captions_refuses(post, photos, code, message):
    files = [broken(name) for name in photos] if isinstance(photos, list) else [photo() for _ in range(photos)]
    response = post(*files, to="/api/captions")
    assert response.status_code == code
    assert set(response.json) == {"status", "message"} and message in response.json["message"]


def test_captions_with_attention_and_its_drawing(post, client, expected):
    answer = post(photo(), to="/api/captions", attention="true").json["photos"][0]
    best = expected()
    for shown, alternative in zip(answer["alternatives"], best.alternatives):
        assert [word["text"] for word in shown["words"]] == alternative.text.split()
        maps = np.array([word["attention"] for word in shown["words"]])
        assert np.allclose(maps, [word.attention for word in alternative.words], atol=1e-3)
        assert np.allclose(maps.sum((1, 2)), 1, atol=1e-3)
    words = answer["alternatives"][0]["words"]
    response = client.post("/api/attention", data={"image": photo(), "words": json.dumps(words)})
    assert response.status_code == 200 and response.content_type == "image/png"
    drawn = Image.open(io.BytesIO(response.data))
    maps = [(word.text, word.attention) for word in best.words]
    same = Image.open(io.BytesIO(draw_attention(np.asarray(Image.open(io.BytesIO(picture()))), maps)))
    assert drawn.format == "PNG" and drawn.size == same.size


def test_attention_of_a_large_picture_takes_no_more_memory(small_app):
    large, sizes = photo(picture(size=(60, 20_000))), []

    def draw(image, words):
        sizes.append(image.shape)
        return draw_attention(image, words)

    with patch.object(api, "draw_attention", draw):
        response = small_app.test_client().post("/api/attention", data={"image": large, "words": json.dumps([WORD])})
    assert response.status_code == 200
    assert max(sizes[0]) <= 448


def test_too_many_attention_drawings_are_refused_at_once(small_app):
    client, words = small_app.test_client(), json.dumps([WORD])
    with patch.object(api, "strips", threading.Semaphore(1)), api.strips:
        response = client.post("/api/attention", data={"image": photo(), "words": words})
        assert response.status_code == 503 and response.headers["Retry-After"]
    for _ in range(10):  # a broken picture makes room again
        assert client.post("/api/attention", data={"image": broken(), "words": words}).status_code == 415
    assert client.post("/api/attention", data={"image": photo(), "words": words}).status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no object"], "words.0: Input should be a valid dictionary"),
        ([], "words: List should have at least 1 item"),
        ([WORD] * 31, "words: List should have at most 30 items"),
        ([WORD | {"text": "$x$"}], "words.0.text: String should match"),
        ([WORD | {"attention": []}], "words.0.attention: List should have at least 1 item"),
        ([WORD | {"attention": [[0] * 7] * 33}], "words.0.attention: List should have at most 32 items"),
        ([WORD | {"attention": [[0] * 7, [0] * 6]}], "words.0.attention: Value error, all rows must have the same"),
        ([WORD | {"attention": [[float("nan")] * 7] * 7}], "words.0.attention.0.0: Input should be"),
    ],
)
def test_attention_refuses(small_app, words, message):
    response = small_app.test_client().post("/api/attention", data={"image": photo(), "words": json.dumps(words)})
    assert response.status_code == 400 and message in response.json["message"]


@pytest.mark.parametrize("words", ["no JSON", "9" * 5000, "[" * 100_000])
def test_attention_refuses_what_is_not_json(small_app, words):
    response = small_app.test_client().post("/api/attention", data={"image": photo(), "words": words})
    assert response.status_code == 400 and response.json["message"].startswith("words: ")


def test_the_api_is_described(small_app):
    client = small_app.test_client()
    document = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    assert {path: sorted(methods) for path, methods in document["paths"].items()} == {
        "/model/predict": ["post"], "/model/metadata": ["get"], "/api/captions": ["post"], "/api/attention": ["post"],
        "/api/videos": ["post"], "/api/videos/{id}": ["delete", "get"],
    }  # fmt: skip
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            for code, answer in operation["responses"].items():
                if int(code) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert client.get(f"/docs/{name}").status_code == 200


def test_metadata(client):
    answer = client.get("/model/metadata").json
    assert set(answer) == {"id", "name", "description", "type", "source", "license"}
    assert all(isinstance(value, str) and value for value in answer.values())
