"""What several tests share: pictures, a model without a network, a running server."""

from __future__ import annotations

import dataclasses
import io
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from werkzeug.datastructures import FileStorage

from captioning.generator import Caption, CaptionGenerator
from captioning.images import resize_image
from web.server import bind, make_server

ROOT = Path(__file__).parent.parent
SIDE = 32  # pixels a side of what `Brightness` captions


def picture(seed: int = 0, size: tuple[int, int] = (120, 90), format: str = "PNG", **options) -> bytes:
    """A file with soft blots of colour, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, format, **options)
    return file.getvalue()


def remembering(generator: CaptionGenerator) -> CaptionGenerator:
    """A generator that encodes each picture once. Tests of pages and of the API send a few pictures again and again."""
    known: dict[bytes, np.ndarray] = {}

    def encode(images):
        keys = [image.tobytes() for image in images]
        new = {key: image for key, image in zip(keys, images) if key not in known}
        if new:
            known.update(zip(new, generator.encode(np.stack(list(new.values())))))
        return np.stack([known[key] for key in keys])

    return CaptionGenerator(encode, generator._search, generator.tokenizers, generator.config)


def swapped_profile() -> bytes:
    """An ICC profile that takes red for blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one, other in ((b"rXYZ", b"bXYZ"), (b"rTRC", b"bTRC")):
        profile = profile.replace(one, b"????").replace(other, one).replace(b"????", other)
    return profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def photo(data: bytes | None = None, name: str = "photo.png", type: str | None = None) -> FileStorage:
    """A file for the field `image` of a form."""
    return FileStorage(io.BytesIO(picture() if data is None else data), name, content_type=type)


def broken(name: str = "notes.jpg") -> FileStorage:
    return photo(b"not a picture at all", name)


def grey(level: int = 0) -> np.ndarray:
    """An image as the encoder takes it."""
    return np.full((SIDE, SIDE, 3), level, np.uint8)


class Brightness:
    """Stands for a `CaptionGenerator`: the caption of a photo is its mean brightness.

    Attributes:
        batches: the size of each batch.
        options: beam width and alternatives of each batch.
        languages: of the captions; all are the same.
        fail: whether batches fail.
        gate: while it is not set, no batch ends.
    """

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.fail = seconds, False
        self.languages = ["en"]
        self.batches: list[int] = []
        self.options: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.config = {"image_size": SIDE, "encoder": "none", "decoder": "none", "dataset": "none"}

    def prepare(self, image):
        return resize_image(image, (SIDE, SIDE))

    def has_loaded(self, beam_width, language):
        return beam_width not in (5, 6)

    def caption_batch(self, images, beam_width, alternatives, language):
        self.batches.append(len(images))
        self.options.append((beam_width, alternatives))
        time.sleep(self.seconds)
        assert self.gate.wait(30)
        if self.fail:
            raise RuntimeError("secret")
        captions = [Caption(str(int(image.mean())), 0.5, 0.5, [], language) for image in images]
        return [dataclasses.replace(caption, alternatives=[caption]) for caption in captions]


def keep_busy(captions) -> None:
    """Let the model of a `CaptionQueue` work on a photo until its gate is set."""
    captions.generator.gate.clear()
    captions.submit(grey())
    wait_until(lambda: captions.generator.batches)


def files_in(*folders) -> set:
    """The visible files. Folders and hidden files may come from tests that run at the same time."""
    paths = (path for folder in folders for path in Path(folder).iterdir())
    return {path for path in paths if path.is_file() and not path.name.startswith(".")}


def wait_until(condition, seconds: float = 60.0) -> Any:
    """Returns what the condition returned when it was met."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)
    return found


@contextmanager
def started(command, **options):
    """A process whose output can be read. It does not outlive a test that fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


class Serving:
    """The real server on a free port, in a thread: ``with Serving(app) as (server, address)``."""

    def __init__(self, app):
        self.listener = bind("127.0.0.1", 0)
        self.server = make_server(app, self.listener)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self.server, self.listener.getsockname()

    def __exit__(self, *_):
        self.server.task_dispatcher.shutdown(timeout=1)
        self.server.close()


def raw_request(data: bytes, path: str = "/model/predict") -> bytes:
    """A whole request with a photo, as it goes over the wire."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(address, path: str) -> str:
    with urllib.request.urlopen("http://{}:{}{}".format(*address, path), timeout=60) as answer:
        return answer.read().decode()


def upload(address, data: bytes | None = None) -> int:
    """Send a photo; returns the status of the answer."""
    body = raw_request(data or picture()).split(b"\r\n\r\n", 1)[1]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request("http://{}:{}/model/predict".format(*address), body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            json.load(answer)
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code if json.load(error)["status"] == "error" else 0


def connect(address) -> socket.socket:
    return socket.create_connection(address, timeout=20)
