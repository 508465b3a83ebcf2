"""The page and the API as a client sees them, without a browser."""

import base64
import csv
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import waitress.buffers
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from PIL import Image
from werkzeug.datastructures import FileStorage

import api
import app as web
import page
from app import create_app
from captioning.training.figures import plot_attention
from intake import Options
from page import confidence, in_words, sentence

WORD = {"text": "a", "probability": 1, "attention": [[0] * 7] * 7}


def picture(seed=0, size=(120, 90), format="PNG") -> io.BytesIO:
    """A soft blot of colours, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, format)
    file.seek(0)
    return file


def photo(file=None, name="photo.png", type=None):
    return FileStorage(picture() if file is None else file, name, content_type=type)


def broken(name="notes.jpg"):
    return photo(io.BytesIO(b"not a picture at all"), name)


@pytest.fixture
def app(generator):
    return create_app(generator=generator)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def post(client):
    def post(*photos, to="/", **query):
        data = {"image": list(photos)}
        return client.post(to, data=data, query_string=query, content_type="multipart/form-data")

    return post


def expected(generator, app, file=None):
    width = app.config["BEAM_WIDTH"]
    return generator.caption(file or picture(), beam_width=width, alternatives=width)


# The page


def test_page(client):
    response = client.get("/")
    assert response.status_code == 200
    assert 'name="image"' in response.text and 'enctype="multipart/form-data"' in response.text
    assert re.search(r'id="captions"[^>]*>\s*</section>', response.text)


def test_all_answers_are_guarded(client):
    for path in ("/", "/nowhere", "/model/metadata", "/static/page.js"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/").headers["Cache-Control"] == "no-store"


def test_page_holds_nothing_inline_and_nothing_from_elsewhere(client, post):
    for html in (client.get("/").text, post(photo(), broken()).text, client.get("/docs").text):
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", html)
        for address in re.findall(r'<(?!a )[^>]*(?:src|href|action)="([^"]*)"', html):  # a link loads nothing
            assert address.startswith(("/", "data:image/jpeg;"))
            if address.startswith("/static"):
                assert client.get(address).status_code == 200


def test_photo_with_its_caption(app, post, generator):
    response = post(photo(name="beach.png"))
    best = expected(generator, app)
    assert response.status_code == 200
    assert f'<h2 class="caption"><span lang="en">{sentence(best.text)}</span></h2>' in response.text
    assert (
        f'<textarea name="text" rows="2" lang="en" autocomplete="off">{sentence(best.text)}</textarea>' in response.text
    )
    assert f"{confidence(best)} %" in response.text
    assert "beach.png" in response.text
    for other in best.alternatives[1:]:
        assert sentence(other.text) in response.text


def test_every_choice_carries_where_the_model_looked(app, post, generator):
    page = post(photo()).text
    choices = [json.loads(words) for words in re.findall(r"data-words='([^']+)'", page)]
    found = expected(generator, app).alternatives
    assert len(choices) == len(found)
    for words, choice in zip(choices, found):
        assert [word["text"] for word in words] == choice.text.split()
        for shown, word in zip(words, choice.words):
            levels = np.array(shown["attention"])
            assert levels.shape == (7, 7) and levels.max() == 99
            assert np.allclose(levels / 99, word.attention / word.attention.max(), atol=0.011)
            assert shown["probability"] == pytest.approx(word.probability, abs=0.006)


def test_decoder_without_attention_has_plain_words(app):
    word = SimpleNamespace(text="dog", probability=0.5, attention=None)
    result = SimpleNamespace(text="dog", probability=0.25, confidence=0.5, words=[word])
    result.alternatives = [result]
    with app.test_request_context():
        shown = {"name": "a", "source": "", "result": result}
        card = web.render_template("photo.html", photo=shown, options=Options())
    assert "Dog." in card and "data-words='null'" in card and '<details class="choices" hidden>' in card


def test_photo_comes_back_small_and_without_what_the_camera_noted(post):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    file = io.BytesIO()
    Image.open(picture(size=(2000, 3000))).save(file, "JPEG", exif=exif)
    file.seek(0)
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', post(photo(file)).text)[1]
    copy = Image.open(io.BytesIO(base64.b64decode(data)))
    assert copy.format == "JPEG" and 448 <= min(copy.size) < max(copy.size) <= page.PREVIEW_SIDE and not copy.getexif()


def test_several_photos_in_order_and_one_that_fails(app, post, generator):
    response = post(photo(picture(1), "one.png"), broken("two.jpg"), photo(picture(3), "three.png"))
    assert response.status_code == 200
    cards = response.text.split("<article")[1:]
    assert sentence(expected(generator, app, picture(1)).text) in cards[0] and "one.png" in cards[0]
    assert "not a photo that we can read" in cards[1] and "two.jpg" in cards[1]
    assert sentence(expected(generator, app, picture(3)).text) in cards[2] and "three.png" in cards[2]


def test_only_photos_that_fail(post):
    response = post(broken())
    assert response.status_code == 415
    assert "not a photo that we can read" in response.text


def test_no_photo(client, post):
    for response in (client.post("/"), post(photo(io.BytesIO(), "")), client.post("/", data={"image": "text"})):
        assert response.status_code == 400
        assert "No photo was chosen" in response.text


def test_too_many_photos(app, post):
    app.config["MAX_PHOTOS"] = 2
    response = post(*[photo(picture(n)) for n in range(3)])
    assert response.status_code == 400
    assert "at most 2" in response.text


def test_options_stand_in_the_address_and_count(app, post, generator):
    response = post(photo(), beam_width=5, alternatives=4)
    best = generator.caption(picture(), beam_width=5, alternatives=5)
    for shown in best.alternatives[:4]:
        assert f'<span lang="en">{sentence(shown.text)}</span> <small>' in response.text
    assert response.text.count("data-words=") == 4
    assert 'action="/?beam_width=5&amp;alternatives=4#captions"' in response.text
    assert re.search(r'name="beam_width"[^>]*value="5"', response.text)
    assert re.search(r'name="alternatives"[^>]*value="4"', response.text)


@pytest.mark.parametrize("query", ["beam_width=11", "beam_width=0", "beam_width=wide", "alternatives=6"])
@pytest.mark.parametrize(("method", "path"), [("get", "/"), ("post", "/"), ("post", "/api/captions")])
def test_options_out_of_bounds(client, method, path, query):
    response = client.open(f"{path}?{query}", method=method, data={"image": photo()})
    assert response.status_code == 400
    message = response.json["message"] if path != "/" else response.text
    assert query.split("=")[0] + ": Input should be" in message


@pytest.mark.parametrize("name", page.SAMPLES)
def test_our_own_pictures(client, name):
    response = client.post("/", data={"sample": name})
    assert response.status_code == 200 and f"{name}.webp" in response.text and '<h2 class="caption">' in response.text
    size = client.get(f"/static/samples/{name}.webp").content_length
    assert 0 < size <= 10_000


def test_downloads_hold_what_a_person_made_of_the_captions(client):
    names, texts = ["a dog.png", "ü,b.jpg"], ['A "dog", really.\r\n', ""]
    form = {"name": names, "text": texts, "alternatives": ["a dog|a cat", ""]}
    response = client.post("/download?format=csv", data=form)
    assert response.headers["Content-Disposition"] == 'attachment; filename="captions.csv"'
    rows = list(csv.reader(io.StringIO(response.data.decode("utf-8-sig"))))
    assert rows == [["image", "caption"], ["a dog.png", 'A "dog", really.'], ["ü,b.jpg", ""]]
    assert client.post("/download?format=json", data=form).json == [
        {"image": "a dog.png", "caption": 'A "dog", really.', "alternatives": ["a dog", "a cat"]},
        {"image": "ü,b.jpg", "caption": "", "alternatives": []},
    ]
    assert client.post("/download?format=coco", data=form).json == [
        {"image_id": "a dog", "caption": 'A "dog", really.'},
        {"image_id": "ü,b", "caption": ""},
    ]
    assert client.post("/download?format=exe", data=form).status_code == 400


def test_file_names_are_text(post):
    page = post(photo(name="<script>alert(1)</script>.png")).text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_sentence():
    assert sentence("a dog runs") == "A dog runs."
    assert sentence("2 dogs in L.A") == "2 dogs in L.A."
    assert sentence("") == ""


def test_confidence():
    assert confidence(SimpleNamespace(confidence=0.296)) == 30
    assert [in_words(percent) for percent in (100, 60, 59, 0)] == ["Quite sure", "Quite sure", "Fairly sure", "A guess"]


# The API


def test_predict(app, post, generator):
    response = post(photo(), to="/model/predict")
    assert response.status_code == 200
    assert response.json["status"] == "ok"
    choices = expected(generator, app).alternatives
    assert [p["index"] for p in response.json["predictions"]] == [str(n) for n in range(len(choices))]
    assert [p["caption"] for p in response.json["predictions"]] == [c.text for c in choices]
    for prediction, choice in zip(response.json["predictions"], choices):
        assert set(prediction) == {"index", "caption", "probability"}
        assert prediction["probability"] == pytest.approx(choice.probability, rel=1e-3)


def test_predict_and_command_line_agree_on_a_large_photo(app, post, generator):
    file = picture(5, (2400, 1800), "JPEG")
    assert (
        post(photo(file), to="/model/predict").json["predictions"][0]["caption"]
        == expected(generator, app, picture(5, (2400, 1800), "JPEG")).text
    )


def test_content_decides_and_not_what_the_client_says(post):
    assert post(photo(name="file.txt", type="text/plain"), to="/model/predict").status_code == 200
    assert post(photo(io.BytesIO(b"GIF8"), "a.png", "image/png"), to="/model/predict").status_code == 415


@pytest.mark.parametrize(
    ("photos", "code", "message"),
    [([], 400, "Send one photo"), ([1, 2], 400, "Send one photo"), (["broken"], 415, "not a photo that we can read")],
)
def test_predict_refuses(post, photos, code, message):
    response = post(*[broken() if kind == "broken" else photo(picture(kind)) for kind in photos], to="/model/predict")
    assert response.status_code == code
    assert response.json["status"] == "error" and message in response.json["message"]


def test_captions_of_several_photos(app, post, generator):
    files = [photo(picture(1), "one.png"), broken("two.jpg"), photo(picture(3), "three.png")]
    response = post(*files, to="/api/captions", alternatives=2)
    assert response.status_code == 200 and response.json["status"] == "ok"
    one, two, three = response.json["photos"]
    assert (
        two["image"] == "two.jpg" and "not a photo that we can read" in two["error"] and set(two) == {"image", "error"}
    )
    for shown, name, seed in ((one, "one.png", 1), (three, "three.png", 3)):
        best = expected(generator, app, picture(seed))
        assert shown["image"] == name and shown["caption"] == best.text
        assert shown["probability"] == pytest.approx(best.probability, rel=1e-3)
        assert shown["confidence"] == pytest.approx(best.confidence, abs=1e-3)
        assert [other["caption"] for other in shown["alternatives"]] == [a.text for a in best.alternatives[:2]]
        assert set(shown["alternatives"][0]) == {"caption", "probability", "confidence"}


def test_captions_with_attention_and_its_picture(app, post, client, generator):
    answer = post(photo(), to="/api/captions", attention="true").json["photos"][0]
    best = expected(generator, app)
    for shown, choice in zip(answer["alternatives"], best.alternatives):
        assert [word["text"] for word in shown["words"]] == choice.text.split()
        maps = np.array([word["attention"] for word in shown["words"]])
        assert np.allclose(maps, [word.attention for word in choice.words], atol=1e-3)
        assert np.allclose(maps.sum((1, 2)), 1, atol=1e-3)
    words = answer["alternatives"][0]["words"]
    response = client.post("/api/attention", data={"image": photo(), "words": json.dumps(words)})
    assert response.status_code == 200 and response.content_type == "image/png"
    drawn = Image.open(io.BytesIO(response.data))
    rows = -(-(len(words) + 1) // 5)
    assert drawn.format == "PNG" and drawn.width == 2100 and drawn.height == rows * 450


def test_a_strip_of_a_long_picture_takes_no_more_memory(client):
    long, sizes = photo(picture(size=(60, 20_000))), []

    def plot(image, words, maps):
        sizes.append(image.shape)
        return plot_attention(image, words, maps)

    with patch.object(api, "plot_attention", plot):
        assert client.post("/api/attention", data={"image": long, "words": json.dumps([WORD])}).status_code == 200
    assert max(sizes[0]) <= 448


def test_too_many_strips_are_refused_at_once(client):
    with patch.object(api, "strips", threading.Semaphore(1)), api.strips:
        response = client.post("/api/attention", data={"image": photo(), "words": json.dumps([WORD])})
        assert response.status_code == 503 and response.headers["Retry-After"]
    for _ in range(10):  # a broken picture gives its place back
        assert client.post("/api/attention", data={"image": broken(), "words": json.dumps([WORD])}).status_code == 415
    assert client.post("/api/attention", data={"image": photo(), "words": json.dumps([WORD])}).status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no json"], "words.0: Input should be a valid dictionary"),
        ([], "words: Field required"),
        ([WORD] * 31, "words: List should have at most 30 items"),
        ([WORD | {"text": "$x$"}], "words.0.text: String should match"),
        ([WORD | {"attention": [[0] * 7] * 6}], "words.0.attention: List should have at least 7 items"),
        ([WORD | {"attention": [[float("nan")] * 7] * 7}], "words.0.attention.0.0: Input should be"),
    ],
)
def test_attention_refuses(client, words, message):
    response = client.post("/api/attention", data={"image": photo(), "words": list(map(json.dumps, words))})
    assert response.status_code == 400 and message in response.json["message"]


@pytest.mark.parametrize(
    ("photos", "code", "message"),
    [(0, 400, "may be repeated"), (["a", "b"], 415, "not a photo that we can read"), (21, 400, "at most 20")],
)
def test_captions_refuses(post, photos, code, message):
    files = [broken(name) for name in photos] if isinstance(photos, list) else [photo() for _ in range(photos)]
    response = post(*files, to="/api/captions")
    assert response.status_code == code
    assert set(response.json) == {"status", "message"} and message in response.json["message"]


def test_the_api_is_described(client):
    document = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    assert {path: list(methods) for path, methods in document["paths"].items()} == {
        "/model/predict": ["post"], "/model/metadata": ["get"], "/api/captions": ["post"], "/api/attention": ["post"],
    }  # fmt: skip
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            for code, answer in operation["responses"].items():
                if code != "200":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert client.get(f"/docs/{name}").status_code == 200


def test_metadata(client):
    answer = client.get("/model/metadata").json
    assert set(answer) == {"id", "name", "description", "type", "source", "license"}
    assert all(isinstance(value, str) and value for value in answer.values())


def test_health_and_ready(client):
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/ready").json == {"status": "ready"}


# Languages


@pytest.mark.parametrize(
    ("wanted", "language", "title"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Eine Beschreibung für jedes Foto"),
        ("en-GB,de;q=0.5", "en", "A caption for every photo"),
        ("fr", "en", "A caption for every photo"),
        ("", "en", "A caption for every photo"),
    ],
)
def test_page_speaks_the_visitors_language(client, wanted, language, title):
    response = client.get("/", headers={"Accept-Language": wanted})
    assert f'<html lang="{language}">' in response.text and title in response.text
    assert response.headers["Content-Language"] == language and "Accept-Language" in response.headers["Vary"]


def test_captions_stay_english_and_errors_do_not(app, client, generator):
    german = {"Accept-Language": "de"}
    response = client.post("/", data={"image": [photo(), broken()]}, headers=german)
    assert f'<span lang="en">{sentence(expected(generator, app).text)}</span>' in response.text
    assert "Text zum Veröffentlichen" in response.text and "kein Foto, das wir lesen können" in response.text
    answer = client.post("/model/predict", data={"image": broken()}, headers=german)
    assert "kein Foto, das wir lesen können" in answer.json["message"] and answer.headers["Content-Language"] == "de"


def test_every_text_is_translated():
    """After a change of texts: the commands are in README."""
    root = Path(web.__file__).parent
    folder = root / "translations" / "de" / "LC_MESSAGES"
    with open(folder / "messages.po", "rb") as po, open(folder / "messages.mo", "rb") as mo:
        written, compiled = read_po(po), read_mo(mo)
    keywords = DEFAULT_KEYWORDS | {"lazy_gettext": None, "ImageError": None}
    methods = [("captioning/images.py", "python"), ("templates/*.html", "jinja2"), ("*.py", "python")]
    texts = {message[2] for message in extract_from_dir(root, methods, keywords=keywords, directory_filter=is_ours)}
    messages = [message for message in written if message.id]
    assert texts == {message.id for message in messages}
    for message in messages:
        assert message.string and not message.fuzzy
        assert list(compiled[message.id].string) == list(message.string)  # letters, or singular and plural


def is_ours(folder: str) -> bool:
    return Path(folder).name in {"captioning", "templates"}


# Errors


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
def test_wrong_address_or_method(client, method, path, code):
    response = getattr(client, method)(path)
    assert response.status_code == code
    assert ("Allow" in response.headers) == (code == 405)
    if path.startswith(("/model", "/api", "/openapi")):
        assert response.json["status"] == "error" and response.json["message"]
    else:
        assert 'role="alert"' in response.text and "<form" in response.text


@pytest.mark.parametrize("path", ["/", "/model/predict"])
def test_too_large(app, post, path):
    app.config["MAX_CONTENT_LENGTH"] = 2**20
    response = post(photo(io.BytesIO(bytes(2**20))), to=path)
    assert response.status_code == 413
    assert "more than 1 MB" in (response.json["message"] if path != "/" else response.text)


@pytest.mark.parametrize("path", ["/", "/model/predict"])
def test_our_own_failure_tells_nothing_of_our_insides(path):
    def caption_batch(photos, **options):
        raise RuntimeError("secret")

    captioner = SimpleNamespace(config={"image_size": 32}, prepare=lambda photo: photo, caption_batch=caption_batch)
    client = create_app(generator=captioner).test_client()
    response = client.post(path, data={"image": photo()})
    assert response.status_code == 500
    assert "secret" not in response.text and "Traceback" not in response.text
    assert "on our side" in (response.json["message"] if path != "/" else response.text)


# The server


def test_large_uploads_stay_in_memory(app, monkeypatch):
    """Neither the server nor the application writes a temporary file for them."""

    def refuse(*_, **__):
        raise AssertionError("written to disk")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", refuse)
    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", refuse)
    monkeypatch.setattr(waitress.buffers, "TempfileBasedBuffer", refuse)
    listener = web.bind("127.0.0.1", 0)
    server = web.serve(app, listener)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = b"".join(head + picture(n).read() + bytes(3 * 2**20) + b"\r\n" for n in range(3)) + b"--x--\r\n"
    request = urllib.request.Request(
        f"http://127.0.0.1:{listener.getsockname()[1]}/", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.read().count(b'<h2 class="caption">') == 3
    server.close()


def test_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert web.main(["--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"Captioner cannot start: 127.0.0.1 port {port} is used by another program. "
        "Choose another with --host or --port.\n"
    )


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--host", "203.0.113.1"]])
def test_address_that_cannot_be_used(arguments, capsys):
    assert web.main(arguments) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "absent"))
    assert web.main(["--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Captioner cannot start:") and "absent" in error and error.count("\n") == 1


def test_start():
    """As a person starts it: it says where it is, answers, and ends when told to."""
    with subprocess.Popen([sys.executable, web.__file__, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            address = re.fullmatch(r"Captioner ready at (http://127\.0\.0\.1:\d+)\n", line)[1]
            with urllib.request.urlopen(f"{address}/ready") as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_BATCH", "many"), ("RATE_LIMIT", "600"), ("ALLOWED_ORIGINS", "https://a.org")]
)
def test_a_setting_of_the_wrong_kind_is_named(name, value, monkeypatch, capsys):
    monkeypatch.setenv(f"CAPTIONER_{name}", value)
    assert web.main(["--port", "0"]) == 2
    assert f"CAPTIONER_{name}" in capsys.readouterr().err
