"""From an upload to its caption: the queue, deadlines, and hostile files."""

import io
import os
import random
import struct
import tempfile
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers import ROOT, Serving, files_in, get, grey, keep_busy, photo, picture, upload, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captioning.cores import CPU_COUNT
from captioning.image_workers import NoWorker
from captioning.images import MAX_PIXELS, ImageError


def small(format: str = "PNG", size: tuple[int, int] = (60, 40), **options) -> bytes:
    return picture(0, size, format, **options)


def test_photos_that_are_read_count_as_waiting(make_app, model):
    """Pictures that take long to read leave threads for refusals and probes."""
    app = make_app(QUEUE_LENGTH=2)
    reading = Future()
    with (
        Serving(app) as (_, address),
        ThreadPoolExecutor(2) as clients,
        patch.object(app.extensions["images"], "submit", lambda *_, **__: reading),
    ):
        first = [clients.submit(upload, address) for _ in range(2)]
        wait_until(lambda: app.extensions["captions"]._coming == 2)
        assert [upload(address) for _ in range(3)] == [503] * 3
        assert '"ok"' in get(address, "/health")
        reading.set_exception(ImageError("No.", "damaged"))
        assert [answer.result() for answer in first] == [422, 422]
        assert upload(address) == 422


@pytest.mark.parametrize("path", ["/", "/api/captions", "/model/predict"])
def test_a_system_that_starts_no_process_is_503(small_app, send, path):
    reading = Future()
    reading.set_exception(NoWorker("No process can be started to read a photo: no memory."))
    with patch.object(small_app.extensions["images"], "submit", lambda *_, **__: reading):
        response = send(small_app, picture(), to=path)
    assert response.status_code == 503 and "cannot start a process" in response.text


def test_full_queue_is_503_with_retry_after(make_app, model, send):
    app = make_app(QUEUE_LENGTH=2)
    keep_busy(app.extensions["captions"])
    with ThreadPoolExecutor(2) as clients:
        served = [clients.submit(send, app, picture()) for _ in range(2)]
        wait_until(lambda: len(app.extensions["captions"]) == 2)
        for path in ("/", "/model/predict"):
            response = send(app, picture(), to=path)
            assert response.status_code == 503 and response.headers["Retry-After"] == "5"
            assert "Too many photos" in (response.json["message"] if path != "/" else response.text)
        model.gate.set()
        assert [response.result().status_code for response in served] == [200, 200]
    assert 'captioner_errors_total{kind="queue full"} 2.0' in app.test_client().get("/metrics").text
    assert send(app, picture()).status_code == 200


def test_timeout_is_503_and_the_photos_are_dropped(make_app, model, send):
    app = make_app(REQUEST_TIMEOUT=0.1)
    keep_busy(app.extensions["captions"])
    assert send(app, picture(), picture(), to="/").status_code == 503
    model.gate.set()
    wait_until(lambda: not len(app.extensions["captions"]))
    assert model.batches == [1]


def test_a_request_with_many_photos_does_not_delay_one_with_a_single_photo(make_app, model, send, monkeypatch):
    monkeypatch.setattr("captioning.batching.CPU_COUNT", 1)
    app = make_app()
    captions = app.extensions["captions"]
    keep_busy(captions)
    with ThreadPoolExecutor(2) as clients:
        many = clients.submit(send, app, *[picture(n) for n in range(19)], to="/api/captions")
        wait_until(lambda: len(captions) == 19)
        one = clients.submit(send, app, picture(), to="/model/predict")
        wait_until(lambda: len(captions) == 20)
        model.seconds = 0.5
        model.gate.set()
        assert one.result(20).status_code == 200 and not many.done()
        assert len(many.result(20).json["photos"]) == 19


def test_a_bad_photo_does_not_fail_the_others(small_app, send):
    text = send(small_app, picture(), b"not a picture", picture(format="JPEG"), to="/").text
    assert text.count('<h2 class="caption">') == 2 and "not a photo that we can read" in text


@pytest.mark.parametrize("query", ["beam_width=11", "beam_width=0", "beam_width=wide", "alternatives=6"])
@pytest.mark.parametrize(("method", "path"), [("get", "/"), ("post", "/"), ("post", "/api/captions")])
def test_options_out_of_range(small_app, method, path, query):
    response = small_app.test_client().open(f"{path}?{query}", method=method, data={"image": photo()})
    assert response.status_code == 400
    if path == "/":
        assert "an invalid option" in response.text
    else:
        assert query.split("=")[0] + ": Input should be" in response.json["message"]


@pytest.mark.parametrize("path", ["/api/captions", "/api/videos"])
@pytest.mark.parametrize("place", ["address", "form"])
def test_an_unknown_option_is_refused(small_app, path, place):
    form = {"image" if path == "/api/captions" else "video": photo()}
    address = f"{path}?langauge=de" if place == "address" else path
    response = small_app.test_client().post(address, data=form | ({"language": "de"} if place == "form" else {}))
    assert response.status_code == 400
    name = "langauge" if place == "address" else "language"
    assert response.json["message"].startswith(f"There is no option “{name}” here.")


FORM = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\nGIF89a\r\n--x%s'


@pytest.mark.parametrize(("path", "field"), [("/api/captions", b"image"), ("/api/videos", b"video")])
@pytest.mark.parametrize(
    ("name", "end", "mimetype"),
    [
        (b"a.jpg", b"", "multipart/form-data; boundary=x"),
        (b"a.jpg", b"--\r\n", "multipart/form-data"),
        (b"gar\xe7on.jpg", b"--\r\n", "multipart/form-data; boundary=x"),
    ],
    ids=["incomplete", "without a boundary", "a name in Latin-1"],
)
def test_a_form_that_cannot_be_read_is_not_a_form_without_photos(small_app, path, field, name, end, mimetype):
    response = small_app.test_client().post(path, data=FORM % (field, name, end), content_type=mimetype)
    assert response.status_code == 400
    assert response.json["message"].startswith("The form cannot be read")


def test_a_file_without_a_name_counts(small_app, send):
    answer = small_app.test_client().post(
        "/api/captions", data={"image": [(io.BytesIO(picture()), ""), (io.BytesIO(picture(1)), "b.png")]}
    )
    assert answer.status_code == 200
    assert [photo["image"] for photo in answer.json["photos"]] == ["", "b.png"]
    nothing = FORM.replace(b"GIF89a", b"") % (b"image", b"", b"--\r\n")  # what a browser sends if no photo is chosen
    response = small_app.test_client().post(
        "/api/captions", data=nothing, content_type="multipart/form-data; boundary=x"
    )
    assert response.status_code == 400 and response.json["message"].startswith("Send photos")


@pytest.mark.skipif(CPU_COUNT < 2, reason="one core reads one photo at a time")
def test_photos_of_a_request_are_read_at_the_same_time(small_app, send, monkeypatch):
    images, running, most = small_app.extensions["images"], [], []
    submit = images.submit

    def recorded(*arguments, **options):
        future = submit(*arguments, **options)
        running.append(future)
        most.append(sum(not future.done() for future in running))
        return future

    monkeypatch.setattr(images, "submit", recorded)
    slow = picture(size=(3000, 3000))
    response = send(small_app, *[slow] * 6, to="/api/captions")
    assert len(response.json["photos"]) == 6 and max(most) == min(CPU_COUNT, 6)


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
    """A progressive JPEG with one pass repeated ten thousand times."""
    data = small("JPEG", (1000, 1000), progressive=True)
    head, *passes = data[:-2].split(b"\xff\xda")
    return b"\xff\xda".join([head, *passes, *[min(passes, key=len)] * 10_000]) + data[-2:]


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
        lambda: small()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))) + small()[33:],
        422,
    ),
    "no pixels": (lambda: png(0, 10), 422),
    "no data": (lambda: png(10, 10), 422),
    "cut JPEG": (lambda: small("JPEG")[:-60], 422),
    "cut PNG": (lambda: small()[:-60], 422),
    "cut after the header": (lambda: small("WEBP")[:24], 422),
    "ten thousand scans": (many_scans, 413),
    "polyglot": (lambda: small("GIF") + b"<script>alert(1)</script><?php system('ls') ?>", 200),
    "archive after a JPEG": (lambda: small("JPEG") + b"PK\x03\x04" + bytes(5000), 200),
    "animated GIF": (lambda: animated("GIF"), 200),
    "animated WebP": (lambda: animated("WEBP"), 200),
    "animated PNG": (lambda: animated("PNG"), 200),
    "TIFF of many pages": (lambda: animated("TIFF"), 200),
    "one pixel": (lambda: small(size=(1, 1)), 200),
    "a long strip": (lambda: small(size=(20_000, 1)), 200),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name, small_app, send):
    make, expected = HOSTILE[name]
    data = make()
    start = time.process_time()  # of the server alone: the image workers have limits of their own
    response = send(small_app, data)
    assert time.process_time() - start < 5
    accepted = (expected,) if expected != 422 else (415, 422)  # what is cut early may not be known as a picture
    assert response.status_code in accepted, response.text
    if expected != 200:
        assert response.json["status"] == "error" and len(response.json["message"].split()) > 5
        page = send(small_app, data, to="/")
        assert page.status_code == response.status_code
        assert '<h2 class="caption">' not in page.text


def test_largest_picture_allowed(small_app, send):
    """The most pixels that are allowed, in a file of a few kilobytes, take limited time."""
    height = MAX_PIXELS // 7_000
    data = png(7_000, height, zlib.compress(bytes(height * 21_001), 1))
    start = time.process_time()
    assert send(small_app, data).status_code == 200
    assert time.process_time() - start < 5


def test_many_fields_and_files(make_app, send):
    app = make_app(MAX_FORM_PARTS=30)
    client, multipart = app.test_client(), {"content_type": "multipart/form-data"}
    assert client.post("/model/predict", data=dict.fromkeys(map(str, range(31)), "x"), **multipart).status_code == 413
    assert send(app, *[small()] * 31).status_code == 413
    assert send(app, *[small()] * 21, to="/").status_code == 400
    assert client.post("/model/predict", data={"text": "x" * 2**20}, **multipart).status_code == 413


@pytest.mark.parametrize(
    "type",
    ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 300,
     "multipart/form-data; boundary=\u00e9", "multipart/mixed; boundary=x", "application/x-www-form-urlencoded", ""],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\n", small()]
)
def test_wrong_content_type(type, body, small_app):
    for path in ("/", "/model/predict"):
        response = small_app.test_client().post(
            path, data=body, headers={"Content-Type": type.encode("latin-1").decode("latin-1")}
        )
        assert response.status_code in (400, 413, 415)


SEEDS = [
    small(), small("JPEG"), small("JPEG", progressive=True), small("WEBP"), small("WEBP", lossless=True),
    small("GIF"), small("BMP"), small("TIFF"), small("TIFF", compression="tiff_lzw"), small("AVIF"),
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


@pytest.mark.slow
def test_mutated_pictures(small_app, send, monkeypatch, tmp_path):
    """They cause no 5xx, no delay, and no growth of memory or of a folder. FUZZ_FILES=10000 tries more of them.

    Slow: hundreds of pictures.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = ROOT, ROOT / "artifacts"
    random_, codes, before = random.Random(0), set(), files_in(*folders)
    count = int(os.environ.get("FUZZ_FILES", 300))
    for number in range(count):
        if number == count // 3:
            warm = resident()
        data = mutated(random_)
        start = time.process_time()
        codes.add(send(small_app, data).status_code)
        assert time.process_time() - start < 5
    assert codes <= {200, 413, 415, 422} and {200, 415, 422} <= codes
    assert small_app.test_client().get("/health").json == {"status": "ok"}
    assert resident() < 1.05 * warm + 20
    assert files_in(*folders) <= before and not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=5000, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(prefix=st.sampled_from([b"", *(seed[:n] for seed in SEEDS for n in (4, 16, 40))]), rest=st.binary(max_size=300))
def test_any_bytes(small_app, send, prefix, rest):
    assert send(small_app, prefix + rest).status_code in (200, 413, 415, 422)


@settings(max_examples=60, deadline=5000, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(name=st.text(max_size=50), type=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50))
def test_any_file_name_and_type(small_app, name, type):
    data = {"image": photo(small(), name or "a", type or None)}
    assert small_app.test_client().post("/", data=data).status_code in (200, 400)


def test_a_form_of_millions_of_fields_is_refused(small_app):
    client = small_app.test_client()
    for path in ("/", "/download", "/api/videos"):
        response = client.post(path, data="a&" * 100_000, content_type="application/x-www-form-urlencoded")
        assert response.status_code == 413, path
    assert client.post("/", data={"sample": "dog"}).status_code == 200


def test_a_photo_that_is_not_read_in_time_is_503(make_app, monkeypatch, send):
    app = make_app(REQUEST_TIMEOUT=0.1)
    reading = Future()
    monkeypatch.setattr(app.extensions["images"], "submit", lambda *_, **__: reading)
    assert send(app, picture(), to="/model/predict").status_code == 503
    assert reading.cancelled()
