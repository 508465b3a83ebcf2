"""Clips over HTTP: jobs, results, limits, and that nothing stays."""

import contextlib
import errno
import http.client
import io
import os
import tempfile
import time

import psutil
import pytest
from clips import animation, clip
from helpers import Serving, keep_busy, wait_until
from werkzeug.datastructures import FileStorage

from captioning.descriptions import to_srt, to_vtt
from web import video_jobs

SHOTS = ((1, 1.0), (2, 1.0))
CLIP = clip(SHOTS)


def start(app, data=CLIP, **query):
    form = {"video": FileStorage(io.BytesIO(data), "clip.mp4")}
    return app.test_client().post("/api/videos", data=form, query_string=query)


def result(app, url, seconds=30):
    """Polls until the job is no longer running."""
    answers = []

    def is_done():
        time.sleep(0.05)
        answers.append(app.test_client().get(url))
        return answers[-1].status_code != 200 or answers[-1].json["state"] != "running"

    wait_until(is_done, seconds)
    return answers


def readers() -> list:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "video_process" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files, in which nothing is visible at any time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


def clip_files() -> list[str]:
    """Open files without a name."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    return [name for name in found if name.startswith(f"{tempfile.gettempdir()}/") and name.endswith(" (deleted)")]


def test_job_gives_segments(app, generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(CLIP)
    expected = generator.caption_video(path)
    started = start(app)
    assert started.status_code == 202 and started.headers["Location"] == started.json["url"]
    assert started.json["state"] == "running" and started.json["progress"] == 0
    answers = result(app, started.json["url"])
    progress = [answer.json["progress"] for answer in answers]
    assert progress == sorted(progress) and progress[-1] == 1
    for found, segment in zip(answers[-1].json["segments"], expected, strict=True):
        same = segment.to_dict()
        for text in ("caption", "language"):
            assert found.pop(text) == same.pop(text)
        assert found == pytest.approx(same, rel=1e-3)
    client = app.test_client()
    for format, text in (("vtt", to_vtt(expected)), ("srt", to_srt(expected))):
        answer = client.get(started.json["url"], query_string={"format": format})
        assert answer.text == text and f"captions.{format}" in answer.headers["Content-Disposition"]
    with_thumbnails = client.get(started.json["url"] + "?thumbnails=true").json["segments"]
    assert all(segment["thumbnail"].startswith("data:image/jpeg;base64,/9j/") for segment in with_thumbnails)
    assert client.delete(started.json["url"]).status_code == 204
    assert client.get(started.json["url"]).status_code == 404
    assert client.delete(started.json["url"]).status_code == 404


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda: b"not a clip at all", 415, "not a clip"),
        (lambda: CLIP[: len(CLIP) // 2], 422, "damaged"),
        (lambda: animation(((1, 0.1),), "GIF"), 415, "only one picture"),
        (lambda: clip(((1, 200.0),), rate=1), 413, "too long"),
    ],
)
def test_bad_clip(small_app, make, status, message):
    answer = result(small_app, start(small_app, make()).json["url"])[-1]
    assert answer.status_code == status and answer.json["status"] == "error" and message in answer.json["message"]
    assert not readers() and not clip_files()


def test_settings_are_limits(make_app):
    app = make_app(VIDEO_SECONDS=0.5, VIDEO_BYTES=len(CLIP))
    assert result(app, start(app).json["url"])[-1].status_code == 413
    refused = start(app, CLIP + bytes(2**17))
    assert refused.status_code == 413 and "The clip has more than" in refused.json["message"]
    assert make_app(VIDEO_JOBS=0).test_client().get("/video").status_code == 404


@pytest.mark.parametrize("form", [{}, {"video": "text"}, {"image": (io.BytesIO(CLIP), "clip.mp4")}])
def test_no_clip(small_app, form):
    answer = small_app.test_client().post("/api/videos", data=form, content_type="multipart/form-data")
    assert answer.status_code == 400 and "'video'" in answer.json["message"]


def test_result_before_it_is_there(small_app, model):
    keep_busy(small_app.extensions["captions"])
    url = start(small_app).json["url"]
    misspelt = small_app.test_client().get(url + "?fromat=vtt")
    assert misspelt.status_code == 400 and "fromat" in misspelt.json["message"]
    answer = small_app.test_client().get(url + "?format=vtt")
    assert answer.status_code == 409 and "not ready" in answer.json["message"]
    model.gate.set()
    assert result(small_app, url)[-1].json["segments"]


def test_more_jobs_than_allowed(make_app, model):
    app = make_app(VIDEO_JOBS=1)
    keep_busy(app.extensions["captions"])
    first = start(app)
    refused = start(app)
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "20"
    assert "Too many clips" in refused.json["message"]
    assert len(clip_files()) <= 1
    model.gate.set()
    assert result(app, first.json["url"])[-1].status_code == 200
    last = start(app)
    assert last.status_code == 202
    assert result(app, last.json["url"])[-1].status_code == 200


def test_a_clip_without_a_thread_takes_no_place(make_app, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    app = make_app(VIDEO_JOBS=1)
    with monkeypatch.context() as patch:
        patch.setattr(video_jobs.threading.Thread, "start", fail)
        assert start(app).status_code == 503
    assert clip_files() == []
    accepted = start(app)
    assert accepted.status_code == 202
    assert result(app, accepted.json["url"])[-1].status_code == 200


@pytest.mark.parametrize("how", ["cancel", "nobody asks", "stop"])
def test_a_job_that_ends_leaves_nothing(make_app, monkeypatch, how):
    app = make_app()
    url = start(app, clip(tuple((n, 2.0) for n in range(20)), rate=10)).json["url"]
    wait_until(readers)
    assert len(clip_files()) == 1
    if how == "cancel":
        assert app.test_client().delete(url).status_code == 204
    elif how == "stop":
        app.extensions["stopping"].set()
    else:
        monkeypatch.setattr(video_jobs, "UNASKED", 0.1)
    wait_until(lambda: not readers() and not clip_files(), 20)  # less than `UNASKED`
    wait_until(lambda: app.test_client().get(url).status_code == 404)


def test_a_result_that_nobody_asks_for_is_forgotten(small_app, monkeypatch):
    monkeypatch.setattr(video_jobs, "SWEEP", 0.1)
    url = start(small_app).json["url"]
    assert result(small_app, url)[-1].status_code == 200
    monkeypatch.setattr(video_jobs, "UNASKED", 0.1)
    wait_until(lambda: not small_app.extensions["videos"]._jobs)


def test_a_clip_does_not_keep_photos_out_of_the_queue(small_app, model):
    slides = animation(tuple((n, 1.0) for n in range(12)), "GIF", 1.0)
    keep_busy(small_app.extensions["captions"])
    url = start(small_app, slides).json["url"]
    wait_until(lambda: len(small_app.extensions["captions"]) == video_jobs.AHEAD)
    time.sleep(0.3)
    assert len(small_app.extensions["captions"]) == video_jobs.AHEAD
    model.gate.set()
    assert len(result(small_app, url)[-1].json["segments"]) > 9


def test_a_failing_model_is_500(small_app, model):
    model.fail = True
    answer = result(small_app, start(small_app).json["url"])[-1]
    assert answer.status_code == 500 and "secret" not in answer.text


def test_no_writable_folder_is_503(small_app, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert start(small_app).status_code == 503


def test_a_full_disk_is_503(small_app, monkeypatch):
    """It is full when the clip is written, not when its file is made."""

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    answer = start(small_app)
    assert answer.status_code == 503 and "no disk space" in answer.json["message"]


def test_a_large_clip_over_the_wire_leaves_no_file(make_app):
    """With the real server, which writes it to a file without a name."""
    app = make_app(MAX_CONTENT_LENGTH=2**20)
    data = CLIP + b"\0\0\0\x08free" + bytes(4 * 2**20)
    head = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    body = head + data + b"\r\n--x--\r\n"
    with Serving(app) as (_, address):
        connection = http.client.HTTPConnection(*address)
        connection.request("POST", "/api/videos", body, {"Content-Type": "multipart/form-data; boundary=x"})
        answer = connection.getresponse()
        assert answer.status == 202
        url = answer.headers["Location"]
        connection.close()
        assert result(app, url)[-1].status_code == 200
        wait_until(lambda: not clip_files())
