"""Many clients, hostile files and a stop in the middle of work."""

import io
import json
import logging
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from werkzeug.datastructures import FileStorage

import app as web
import operations
from captioning.images import MAX_PIXELS, resize_image
from captioning.batching import CaptionQueue, QueueFull

ROOT = Path(web.__file__).parent
SIDE = 32


class Brightness:
    """In place of a model: a photo's caption is its mean. `batches` are their sizes, `options` what they were asked
    with; none ends before `gate` is set."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches, self.options, self.fail = seconds, [], [], False
        self.gate = threading.Event()
        self.gate.set()
        self.config = {"image_size": SIDE, "encoder": "none", "decoder": "none", "dataset": "none"}
        self.encoder = SimpleNamespace(image_size=SIDE)

    def prepare(self, image):
        return resize_image(image, (SIDE, SIDE))

    def caption_batch(self, images, beam_width, alternatives):
        self.batches.append(len(images))
        self.options.append((beam_width, alternatives))
        time.sleep(self.seconds)
        assert self.gate.wait(30)
        if self.fail:
            raise RuntimeError("secret")
        captions = [
            SimpleNamespace(text=str(int(image.mean())), probability=0.5, confidence=0.5, words=[]) for image in images
        ]
        return [SimpleNamespace(**vars(caption), alternatives=[caption]) for caption in captions]


def grey(level=0):
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def queue():
    """Makes a queue, and closes it at the end."""
    queues = []

    def make(generator, **options):
        queues.append(CaptionQueue(generator, **options))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()


def busy(captions):
    """Makes the model of a queue work on a photo until its gate is set."""
    captions.generator.gate.clear()
    captions.submit(grey())
    until(lambda: captions.generator.batches)


# The queue


def test_batches_give_the_same_captions_as_one_by_one(generator, queue):
    side = generator.encoder.image_size
    blots = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    photos = [resize_image(blot, (side, side)) for blot in blots]
    alone = [generator.caption(photo) for photo in photos]
    together = queue(generator, max_batch=4, max_wait=0.5)  # a batch of three
    answers = [together.submit(photo) for photo in photos]
    for answer, expected in zip(answers, alone):
        assert answer.result(60).text == expected.text
        assert answer.result().probability == pytest.approx(expected.probability, rel=1e-3)


def test_every_thread_gets_its_own_answer_and_the_load_makes_the_batches(queue):
    generator = Brightness(0.01)
    captions = queue(generator)
    with ThreadPoolExecutor(40) as clients:
        texts = list(clients.map(lambda level: captions.caption(grey(level)).text, range(200)))
    assert texts == [str(level) for level in range(200)]
    assert len(generator.batches) < 60 and max(generator.batches) <= 20


@pytest.mark.parametrize(("waiting", "sizes"), [(1, [1]), (3, [3]), (11, [11]), (50, [20, 20, 10])])
def test_a_batch_is_all_that_waits(waiting, sizes, queue):
    generator = Brightness()
    captions = queue(generator, max_wait=0)
    busy(captions)
    answers = [captions.submit(grey(n)) for n in range(waiting)]
    generator.gate.set()
    assert [answer.result(20).text for answer in answers] == [str(n) for n in range(waiting)]
    assert generator.batches == [1, *sizes]


def test_photos_of_one_batch_have_the_same_options(queue):
    generator = Brightness()
    captions = queue(generator, beam_width=3, alternatives=3, max_wait=0)
    busy(captions)
    answers = [captions.submit(grey(n), **({"beam_width": 5} if n % 2 else {})) for n in range(7)]
    generator.gate.set()
    assert [answer.result(20).text for answer in answers] == [str(n) for n in range(7)]
    assert generator.batches == [1, 4, 3]
    assert generator.options[1:] == [(3, 3), (5, 3)]


def test_warm_up_is_for_one_for_some_and_for_all(queue):
    generator = Brightness()
    queue(generator, max_batch=8).warm_up()
    assert generator.batches == [1, 7, 8]


@pytest.mark.parametrize("option", ["max_batch", "max_waiting"])
def test_no_room_is_refused(option):
    with pytest.raises(ValueError, match="room for one photo"):
        CaptionQueue(Brightness(), **{option: 0})


def test_full_queue_refuses_at_once(queue):
    captions = queue(Brightness(), max_waiting=3)
    busy(captions)
    answers = [captions.submit(grey()) for _ in range(3)]
    with pytest.raises(QueueFull):
        captions.submit(grey())
    assert captions.full and len(captions) == 3
    captions.generator.gate.set()
    assert all(answer.result(20) for answer in answers) and not captions.full


def test_who_has_gone_costs_no_batch(queue):
    captions = queue(Brightness())
    busy(captions)
    gone = captions.submit(grey(), gone=lambda: True)
    captions.submit(grey()).cancel()
    with pytest.raises(TimeoutError):
        captions.caption(grey(), timeout=0.01)
    last = captions.submit(grey(7))
    captions.generator.gate.set()
    assert last.result(20).text == "7"
    assert gone.cancelled() and captions.generator.batches == [1, 1]


def test_worker_survives_exceptions(queue):
    generator = Brightness()
    captions = queue(generator)
    generator.fail = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="secret"):
            captions.caption(grey())
    assert captions.alive and captions.failing and captions.failed == 3
    generator.fail = False
    assert captions.caption(grey(9)).text == "9" and not captions.failing


def test_close_finishes_what_waits(queue):
    captions = queue(Brightness(), max_batch=2)
    busy(captions)
    answers = [captions.submit(grey(n)) for n in range(7)]
    threading.Timer(0.1, captions.generator.gate.set).start()
    captions.close()
    assert [answer.result(0).text for answer in answers] == [str(n) for n in range(7)] and not captions.alive
    with pytest.raises(QueueFull):
        captions.submit(grey())


# The application


def encoded(format="PNG", size=(60, 40), **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def model():
    return Brightness()


@pytest.fixture
def make_app(model):
    """Makes an application around `model`, and ends its worker at the end."""
    apps = []

    def make(**config):
        apps.append(web.create_app({"RATE_LIMIT": "", **config}, model))
        return apps[-1]

    yield make
    model.gate.set()
    for app in apps:
        app.extensions["captions"].close()


@pytest.fixture
def app(make_app):
    return make_app()


def post(app, *files, to="/model/predict", **headers):
    data = {"image": [FileStorage(io.BytesIO(data), "photo.jpg") for data in files]}
    return app.test_client().post(to, data=data, headers=headers)


def metrics(app) -> str:
    return app.test_client().get("/metrics").text


def test_full_queue_is_503_with_retry_after(make_app, model):
    app = make_app(QUEUE_LENGTH=2, MAX_BATCH=1)
    busy(app.extensions["captions"])
    with ThreadPoolExecutor(2) as clients:
        served = [clients.submit(post, app, encoded()) for _ in range(2)]
        until(lambda: app.extensions["captions"].full)
        for path in ("/", "/model/predict"):
            response = post(app, encoded(), to=path)
            assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
            assert "Too many photos" in (response.json["message"] if path != "/" else response.text)
        model.gate.set()
        assert [response.result().status_code for response in served] == [200, 200]
    assert 'captioner_errors_total{kind="queue full"} 2.0' in metrics(app)
    assert post(app, encoded()).status_code == 200


def test_timeout_is_503_and_the_photo_is_dropped(make_app, model):
    app = make_app(REQUEST_TIMEOUT=0.1)
    busy(app.extensions["captions"])
    assert post(app, encoded(), encoded(), to="/").status_code == 503
    model.gate.set()
    until(lambda: not len(app.extensions["captions"]))
    assert model.batches == [1]


def test_a_client_that_hangs_up_is_dropped(app, model):
    captions = app.extensions["captions"]
    busy(captions)
    with serving(app) as (server, address), ThreadPoolExecutor(1) as clients:
        with socket.create_connection(address) as impatient:
            impatient.sendall(raw(encoded()))
            until(lambda: len(captions) == 1)
        until(lambda: not server.active_channels)
        patient = clients.submit(upload, address)
        until(lambda: len(captions) == 2)
        model.gate.set()
        assert patient.result() == 200
    assert model.batches == [1, 1]


def test_a_bad_photo_does_not_fail_its_neighbours(app):
    text = post(app, encoded(), b"not a picture", encoded("JPEG"), to="/").text
    assert text.count('<h2 class="caption">') == 2 and "not a photo that we can read" in text


def test_health_tells_of_a_failed_batch(app, model):
    client = app.test_client()
    model.fail = True
    response = post(app, encoded())
    assert response.status_code == 500 and "secret" not in response.text
    assert client.get("/health").json["status"] == "degraded"
    model.fail = False
    assert post(app, encoded()).status_code == 200
    assert client.get("/health").json == {"status": "ok"}


def test_stopping_is_not_ready_and_takes_no_new_work(app):
    app.extensions["stopping"].set()
    assert app.test_client().get("/ready").status_code == 503
    assert post(app, encoded()).status_code == 503
    assert app.test_client().get("/health").status_code == 200


def test_metrics(app):
    post(app, encoded())
    post(app, b"no picture")
    app.test_client().get("/someone/secret")
    text = metrics(app)
    assert 'captioner_requests_total{route="POST /model/predict",status="200"} 1.0' in text
    assert 'captioner_requests_total{route="POST /model/predict",status="415"} 1.0' in text
    assert 'captioner_request_seconds_count{route="POST /model/predict"} 2.0' in text
    assert "captioner_batch_photos_sum 1.0" in text and "captioner_queue_photos 0.0" in text
    assert 'captioner_errors_total{kind="unsupported"} 1.0' in text
    assert "someone" not in text


def test_access_log_names_no_file(app, caplog):
    caplog.set_level(logging.INFO, "captioner.access")
    client = app.test_client()
    responses = [
        client.post("/", data={"image": FileStorage(io.BytesIO(encoded()), "grandmother.png")}),
        client.post("/", data={"image": FileStorage(io.BytesIO(b"broken"), "grandmother.png")}),
        client.get("/grandmother.png?grandmother"),
    ]
    assert "grandmother" not in caplog.text
    lines = [json.loads(record.message) for record in caplog.records if record.name == "captioner.access"]
    for line, response in zip(lines, responses, strict=True):
        assert set(line) == {"time", "id", "method", "route", "status", "milliseconds", "bytes"}
        assert line["id"] == response.headers["X-Request-ID"]
        assert line["status"] == response.status_code and line["bytes"] == len(response.data)
    assert [line["route"] for line in lines] == ["/", "/", None]


def test_rate_limit_for_each_client(make_app):
    app = make_app(RATE_LIMIT="3 per minute")
    client = app.test_client()
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


def test_rate_limit_is_on_by_default_and_knows_clients_behind_a_proxy(model, monkeypatch):
    monkeypatch.setenv("CAPTIONER_PROXIES", "1")
    app = web.create_app(generator=model)
    assert app.config["RATE_LIMIT"]
    app = web.create_app({"RATE_LIMIT": "1 per minute"}, model)
    codes = [app.test_client().post("/", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in (1, 2, 1)]
    assert codes == [400, 400, 429]


def test_other_origins(make_app):
    friend, stranger = "https://friend.example", "https://stranger.example"
    closed, open_ = make_app(), make_app(ALLOWED_ORIGINS=[friend])
    assert "Access-Control-Allow-Origin" not in post(closed, encoded(), Origin=friend).headers
    assert "Access-Control-Allow-Origin" not in post(open_, encoded(), Origin=stranger).headers
    assert post(open_, encoded(), Origin=friend).headers["Access-Control-Allow-Origin"] == friend
    asked = open_.test_client().options("/model/predict", headers={"Origin": friend})
    assert "POST" in asked.headers["Access-Control-Allow-Methods"] and "Origin" in asked.vary


# Hostile files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animated(format) -> bytes:
    frames = [Image.fromarray(grey(level)) for level in range(0, 250, 2)]
    file = io.BytesIO()
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def many_scans() -> bytes:
    """A progressive JPEG one of whose passes is repeated ten thousand times."""
    photo = encoded("JPEG", (1000, 1000), progressive=True)
    head, *passes = photo[:-2].split(b"\xff\xda")
    return b"\xff\xda".join([head, *passes, *[min(passes, key=len)] * 10_000]) + photo[-2:]


HOSTILE = {
    "empty": (lambda: b"", 422),
    "one byte": (lambda: b"\xff", 415),
    "text": (lambda: b"not a picture at all", 415),
    "page": (lambda: b"<html><script>alert(1)</script>", 415),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 415),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", 415),
    "pickle": (lambda: b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", 415),
    "zip": (lambda: b"PK\x03\x04" + bytes(99), 415),
    "bomb by its header": (lambda: png(60_000, 60_000), 413),
    "bomb of pixels": (lambda: png(7_000, 7_200, zlib.compress(bytes(2**20))), 413),
    "bomb of text": (
        lambda: encoded()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))) + encoded()[33:],
        422,
    ),
    "no pixels": (lambda: png(0, 10), 422),
    "no data": (lambda: png(10, 10), 422),
    "cut JPEG": (lambda: encoded("JPEG")[:-60], 422),
    "cut PNG": (lambda: encoded()[:-60], 422),
    "cut after the header": (lambda: encoded("WEBP")[:24], 422),
    "ten thousand scans": (many_scans, 413),
    "polyglot": (lambda: encoded("GIF") + b"<script>alert(1)</script><?php system('ls') ?>", 200),
    "archive after a JPEG": (lambda: encoded("JPEG") + b"PK\x03\x04" + bytes(5000), 200),
    "animated GIF": (lambda: animated("GIF"), 200),
    "animated WebP": (lambda: animated("WEBP"), 200),
    "animated PNG": (lambda: animated("PNG"), 200),
    "TIFF of many pages": (lambda: animated("TIFF"), 200),
    "one pixel": (lambda: encoded(size=(1, 1)), 200),
    "a long strip": (lambda: encoded(size=(20_000, 1)), 200),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name, app):
    make, expected = HOSTILE[name]
    data = make()
    start = time.perf_counter()
    response = post(app, data)
    assert time.perf_counter() - start < 5
    accepted = (expected,) if expected != 422 else (415, 422)  # what is cut early may not be known as a picture
    assert response.status_code in accepted, response.text
    if expected != 200:
        assert response.json["status"] == "error" and len(response.json["message"].split()) > 5
        page = post(app, data, to="/")
        assert page.status_code == response.status_code
        assert '<h2 class="caption">' not in page.text


def test_largest_picture_allowed(app):
    """As many pixels as may be, in a file of a few kilobytes: in bounded time."""
    height = MAX_PIXELS // 7_000
    data = png(7_000, height, zlib.compress(bytes(height * 21_001), 1))
    start = time.process_time()
    assert post(app, data).status_code == 200
    assert time.process_time() - start < 5


def test_many_fields_and_files(make_app):
    app = make_app(MAX_FORM_PARTS=30)
    client, multipart = app.test_client(), {"content_type": "multipart/form-data"}
    assert client.post("/model/predict", data=dict.fromkeys(map(str, range(31)), "x"), **multipart).status_code == 413
    assert post(app, *[encoded()] * 31).status_code == 413
    assert post(app, *[encoded()] * 21, to="/").status_code == 400
    assert client.post("/model/predict", data={"text": "x" * 2**20}, **multipart).status_code == 413


@pytest.mark.parametrize(
    "type",
    ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 300,
     "multipart/form-data; boundary=\u00e9", "multipart/mixed; boundary=x", "application/x-www-form-urlencoded", ""],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\n", encoded()]
)
def test_wrong_content_type(type, body, app):
    for path in ("/", "/model/predict"):
        response = app.test_client().post(
            path, data=body, headers={"Content-Type": type.encode("latin-1").decode("latin-1")}
        )
        assert response.status_code in (400, 413, 415)


SEEDS = [
    encoded(), encoded("JPEG"), encoded("JPEG", progressive=True), encoded("WEBP"), encoded("WEBP", lossless=True),
    encoded("GIF"), encoded("BMP"), encoded("TIFF"), encoded("TIFF", compression="tiff_lzw"), encoded("AVIF"),
    animated("GIF")[:3000],
]  # fmt: skip


def mutated(random: random.Random) -> bytes:
    """A picture with some bytes changed, cut out, doubled, or moved from another picture."""
    data = bytearray(random.choice(SEEDS))
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        at, length = random.randrange(len(data) + 1), random.choice([1, 2, 4, 16, 100])
        other = random.choice(SEEDS)
        start = random.randrange(len(other))
        data[at : at + random.choice([0, length])] = random.choice(
            [random.randbytes(length), b"\xff" * length, bytes(length), b"", other[start : start + length]]
        )
    return bytes(data)


def resident() -> int:
    """Megabytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 2**20


def files_below(*folders) -> set:
    return {path for folder in folders for path in Path(folder).iterdir()}


def test_mutated_pictures(app, monkeypatch, tmp_path):
    """No 5xx, no wait, no growth of memory or of a folder. More of them with FUZZ_FILES=10000."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = ROOT, ROOT / "artifacts", tmp_path, "/dev/shm"
    random_, codes, before = random.Random(0), set(), files_below(*folders)
    count = int(os.environ.get("FUZZ_FILES", 300))
    for number in range(count):
        if number == count // 3:
            warm = resident()
        data = mutated(random_)
        start = time.perf_counter()
        codes.add(post(app, data).status_code)
        assert time.perf_counter() - start < 5
    assert codes <= {200, 413, 415, 422} and {200, 415, 422} <= codes
    assert app.test_client().get("/health").json == {"status": "ok"}
    assert resident() < 1.05 * warm + 20
    assert {path for path in files_below(*folders) - before if path.exists()} == set()


@settings(max_examples=60, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
@given(prefix=st.sampled_from([b"", *(seed[:n] for seed in SEEDS for n in (4, 16, 40))]), rest=st.binary(max_size=300))
def test_any_bytes(app, prefix, rest):
    assert post(app, prefix + rest).status_code in (200, 413, 415, 422)


@settings(max_examples=60, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
@given(name=st.text(max_size=50), type=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50))
def test_any_file_name_and_type(app, name, type):
    data = {"image": FileStorage(io.BytesIO(encoded()), name or "a", content_type=type or None)}
    assert app.test_client().post("/", data=data).status_code in (200, 400)


# The server


class serving:
    """The real server on a free port, in a thread; gives it and its address."""

    def __init__(self, app):
        self.listener = web.bind("127.0.0.1", 0)
        self.server = web.serve(app, self.listener)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self.server, self.listener.getsockname()

    def __exit__(self, *_):
        self.server.task_dispatcher.shutdown(timeout=1)
        self.server.close()


def raw(photo: bytes, path="/model/predict") -> bytes:
    """A whole request, as it goes over the wire."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + photo + b"\r\n--x--\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(address, path) -> str:
    with urllib.request.urlopen("http://{}:{}{}".format(*address, path), timeout=10) as answer:
        return answer.read().decode()


def upload(address, photo=None) -> int:
    """Sends a photo; returns the status of the answer."""
    body = raw(photo or encoded()).split(b"\r\n\r\n", 1)[1]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request("http://{}:{}/model/predict".format(*address), body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            json.load(answer)
            return answer.status
    except urllib.error.HTTPError as error:
        assert json.load(error)["status"] == "error"
        return error.code


def test_more_clients_than_may_wait(make_app, model):
    """Each gets 200 or 503, soon, and then all is as before."""
    model.seconds = 0.1
    app = make_app(QUEUE_LENGTH=8, MAX_BATCH=4)
    with serving(app) as (_, address), ThreadPoolExecutor(60) as clients:
        codes = list(clients.map(lambda _: upload(address), range(60)))
        assert set(codes) == {200, 503} and codes.count(200) >= 8
        assert upload(address) == 200
    assert app.extensions["captions"].failed == 0


def test_uploads_together_have_bounds(app, monkeypatch):
    monkeypatch.setattr(operations.BoundedChannel, "limit", 2**20)
    with serving(app) as (server, address):
        first, second = socket.create_connection(address), socket.create_connection(address)
        with first, second:
            with suppress(ConnectionError):  # a reset, when the server closes before it has read all
                first.sendall(raw(bytes(2**21))[:-9])
                until(lambda: not server.active_channels or first.recv(1) == b"")
            assert upload(address) == 200


@pytest.mark.parametrize(("request_", "code"), [
    (b"POST /model/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 2**18 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
])  # fmt: skip
def test_what_waitress_refuses_is_json_too(app, request_, code):
    with serving(app) as (_, address), socket.create_connection(address) as client:
        client.settimeout(20)
        with suppress(ConnectionError):
            client.sendall(request_)
        head, body = client.makefile("rb").read().split(b"\r\n\r\n", 1)
        assert int(head.split()[1]) == code and b"application/json" in head
        assert json.loads(body)["status"] == "error" and json.loads(body)["message"].endswith(".")


SLOW = """
import sys
sys.path[:0] = ["tests", "."]
import app, operations
from test_serving import Brightness

listener = app.bind("127.0.0.1", 0)
captioner = app.create_app({"MAX_BATCH": 1}, Brightness(1))
operations.log_requests()
server = app.serve(captioner, listener)
print(listener.getsockname()[1], flush=True)
operations.run(server, captioner)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_what_is_under_way(number):
    """Also for a client that keeps its connection, whose next photo is refused."""
    command = [sys.executable, "-c", SLOW]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = "127.0.0.1", int(server.stdout.readline())
        with socket.create_connection(address) as idle, ThreadPoolExecutor(3) as clients:
            served = [clients.submit(upload, address) for _ in range(3)]
            until(lambda: "captioner_queue_photos 2.0" in get(address, "/metrics"))
            server.send_signal(number)
            time.sleep(0.2)
            idle.sendall(raw(encoded()))
            refused = idle.recv(9999)
            assert refused.startswith(b"HTTP/1.1 503") and b"Retry-After" in refused
            assert [answer.result() for answer in served] == [200, 200, 200]
        assert server.wait(10) == 0
        lines = [json.loads(line) for line in server.stderr if line.startswith("{")]
        assert [line["status"] for line in lines if line["method"] == "POST"] == [503, 200, 200, 200]
    with pytest.raises(OSError):
        socket.create_connection(address)


def test_killed_it_starts_again(make_app):
    """Nothing is left behind by a server that was killed: no lock, no file."""
    before = sorted(os.listdir(ROOT))
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        address = "127.0.0.1", int(server.stdout.readline())
        with socket.create_connection(address) as client:
            client.sendall(raw(encoded()))
            time.sleep(0.1)
            server.kill()
    listener = web.bind(*address)
    listener.close()
    assert sorted(os.listdir(ROOT)) == before
