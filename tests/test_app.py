"""The page and the API as a client sees them, without a browser."""

import base64
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import waitress.buffers
from PIL import Image
from werkzeug.datastructures import FileStorage

import app as web
from app import confidence, create_app, in_words, sentence


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
    def post(*photos, to="/"):
        return client.post(to, data={"image": list(photos)}, content_type="multipart/form-data")

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
    for page in (client.get("/").text, post(photo(), broken()).text):
        assert not re.search(r"\sstyle=|\son\w+=|<style", page)
        for address in re.findall(r'(?:src|href|action)="([^"]*)"', page):
            assert address.startswith(("/", "data:image/jpeg;"))
            if address.startswith("/static"):
                assert client.get(address).status_code == 200


def test_photo_with_its_caption(app, post, generator):
    response = post(photo(name="beach.png"))
    best = expected(generator, app)
    assert response.status_code == 200
    assert f'<h2 class="caption">{sentence(best.text)}</h2>' in response.text
    assert f"{confidence(best)} %" in response.text
    assert "beach.png" in response.text
    for other in best.alternatives[1:]:
        assert sentence(other.text) in response.text


def test_words_carry_where_the_model_looked(app, post, generator):
    maps = re.findall(r'data-attention="([\d ]+)"', post(photo()).text)
    best = expected(generator, app)
    assert len(maps) == len(best.words)
    for levels, word in zip(maps, best.words):
        levels = np.array(levels.split(), float)
        assert levels.max() == 99
        assert np.allclose(levels / 99, word.attention.ravel() / word.attention.max(), atol=0.011)


def test_decoder_without_attention_has_plain_words(app):
    word = SimpleNamespace(text="dog", probability=0.5, attention=None)
    result = SimpleNamespace(text="dog", probability=0.25, words=[word])
    result.alternatives = [result]
    with app.test_request_context():
        page = web.render_template("photo.html", photo={"name": "a", "source": "", "result": result})
    assert "Dog." in page and "data-attention" not in page and "<details>" not in page


def test_photo_comes_back_small_and_without_what_the_camera_noted(post):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    file = io.BytesIO()
    Image.open(picture(size=(2000, 3000))).save(file, "JPEG", exif=exif)
    file.seek(0)
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', post(photo(file)).text)[1]
    copy = Image.open(io.BytesIO(base64.b64decode(data)))
    assert copy.format == "JPEG" and 448 <= min(copy.size) < max(copy.size) <= web.PREVIEW_SIDE and not copy.getexif()


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


def test_file_names_are_text(post):
    page = post(photo(name="<script>alert(1)</script>.png")).text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_sentence():
    assert sentence("a dog runs") == "A dog runs."
    assert sentence("2 dogs in L.A") == "2 dogs in L.A."
    assert sentence("") == "The model has no words for this."


def test_confidence():
    words = [SimpleNamespace(probability=p) for p in (0.9, 0.1)]
    assert confidence(SimpleNamespace(words=words)) == 30
    assert confidence(SimpleNamespace(words=[])) == 0
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


def test_metadata(client):
    answer = client.get("/model/metadata").json
    assert set(answer) == {"id", "name", "description", "type", "source", "license"}
    assert all(isinstance(value, str) and value for value in answer.values())


def test_health_and_ready(client):
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/ready").json == {"status": "ready"}


# Errors


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("get", "/nowhere", 404), ("put", "/", 405), ("get", "/model/predict", 405), ("get", "/model/nothing", 404)],
)
def test_wrong_address_or_method(client, method, path, code):
    response = getattr(client, method)(path)
    assert response.status_code == code
    assert ("Allow" in response.headers) == (code == 405)
    if path.startswith("/model"):
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


def test_a_setting_of_the_wrong_kind_is_named(monkeypatch, capsys):
    monkeypatch.setenv("CAPTIONER_MAX_BATCH", "many")
    assert web.main(["--port", "0"]) == 2
    assert "CAPTIONER_MAX_BATCH" in capsys.readouterr().err
