"""The web side: one page and an API over HTTP. `create_app()` is the table of contents.

```
python app.py --port 8000
```
"""

import argparse
import base64
import errno
import io
import math
import os
import socket
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import waitress
from flask import Flask, Request, abort, current_app, g, jsonify, render_template, request
from PIL import Image
from werkzeug.exceptions import HTTPException, ServiceUnavailable

import operations
from captioning.artifacts import check_manifest
from captioning.images import ImageError, read_image
from captioning.serving import CaptionQueue, QueueFull

IMAGE_STATUS = {"unsupported": 415, "damaged": 422, "too large": 413}

PREVIEW_SIDE = 800  # pixels, at most, of the longer side of the photo that is shown beside its caption

CONFIDENCE = {60: "Quite sure", 40: "Fairly sure", 0: "A guess"}  # from so many per cent on

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # an answer holds a photo
}


class InMemoryRequest(Request):
    """A request whose uploads stay in memory (Werkzeug writes large ones to disk), within MAX_CONTENT_LENGTH."""

    def _get_file_stream(self, total_content_length, content_type, filename=None, content_length=None):
        return io.BytesIO()


def create_app(config: dict | None = None, generator=None) -> Flask:
    """Builds the application; it is ready for its first photo when this returns.

    Args:
        config: settings that replace the ones below.
        generator: a warm `CaptionGenerator`; by default the one in `ARTIFACTS_DIR`.

    Raises:
        ArtifactError: the model cannot be loaded; the message says why and what to do.
        ValueError: a setting is of the wrong kind.
    """
    app = Flask(__name__)
    app.request_class = InMemoryRequest
    app.config.update(
        ARTIFACTS_DIR=os.environ.get("ARTIFACTS_DIR", Path(__file__).parent / "artifacts"),
        BEAM_WIDTH=3,  # also the number of captions to choose from
        MAX_CONTENT_LENGTH=32 * 2**20,  # bytes of all photos in a request
        MAX_PHOTOS=20,  # in a request
        MAX_FORM_PARTS=100,  # files and other fields in a request
        MAX_BATCH=16,  # photos that the model sees at once, a power of two
        BATCH_WAIT=0.002,  # seconds that a photo waits for company when the model is idle
        QUEUE_LENGTH=64,  # photos that wait for the model; one more is refused (503)
        REQUEST_TIMEOUT=30,  # seconds until a request gives up (503)
        RATE_LIMIT="600 per minute",  # requests with photos from one address; empty: no limit
        PROXIES=0,  # reverse proxies in front, whose X-Forwarded-For tells the client's address
        ALLOWED_ORIGINS=[],  # other sites whose pages may call this one, such as ["https://example.org"]
    )
    read_settings(app.config)
    app.config.update(config or {})
    metrics = operations.Metrics()
    captions = start_queue(app.config, generator, metrics)
    app.extensions.update(generator=captions.generator, captions=captions, metrics=metrics)
    app.extensions["decoders"] = threading.BoundedSemaphore(os.cpu_count() or 1)
    app.extensions["stopping"] = threading.Event()
    operations.watch(app, metrics)
    app.before_request(begin)
    app.teardown_request(drop_unanswered)
    operations.limit_clients(app)

    # No CSRF protection: there is no session and no state that a forged request could use or change.
    app.get("/")(page)
    app.post("/")(caption_photos)
    app.post("/model/predict")(predict)
    app.get("/model/metadata")(metadata)
    app.get("/health")(health)
    app.get("/ready")(ready)
    app.get("/metrics")(metrics.show)
    app.register_error_handler(HTTPException, show_error)
    app.after_request(add_security_headers)
    operations.allow_origins(app)
    for template_filter in (sentence, confidence, in_words, attention_levels):
        app.add_template_filter(template_filter)
    return app


def read_settings(config) -> None:
    """Lets the environment replace settings: CAPTIONER_QUEUE_LENGTH=128 is QUEUE_LENGTH."""
    defaults = dict(config)
    config.from_prefixed_env("CAPTIONER")
    for name, default in defaults.items():
        value, good = config[name], True
        if isinstance(default, list):
            good = isinstance(value, list)
        elif isinstance(default, (int, float)):
            good = isinstance(value, (int, float)) and value >= 0
        if not good:
            raise ValueError(f"CAPTIONER_{name}={value!r} is not understood. An example: {default!r}.")


def load_generator(config):
    """Loads the trained model."""
    check_manifest(config["ARTIFACTS_DIR"])  # first, because TensorFlow takes seconds to import
    from generate_captions import CaptionGenerator

    return CaptionGenerator.load(config["ARTIFACTS_DIR"])


def start_queue(config, generator, metrics) -> CaptionQueue:
    """The queue in front of the model; a model that is loaded here is also warmed, so that no visitor waits for that."""
    captions = CaptionQueue(
        generator or load_generator(config),
        beam_width=config["BEAM_WIDTH"],
        alternatives=config["BEAM_WIDTH"],
        max_batch=config["MAX_BATCH"],
        max_wait=config["BATCH_WAIT"],
        max_waiting=config["QUEUE_LENGTH"],
        on_batch=metrics.batch,
    )
    if generator is None:
        captions.warm_up()
    metrics.waiting.set_function(lambda: len(captions))
    return captions


# The page


def page():
    return render_template("page.html")


def caption_photos():
    files = uploads()
    if not files:
        abort(400, "No photo was chosen. Choose one or more, then try again.")
    if len(files) > current_app.config["MAX_PHOTOS"]:
        abort(400, f"These are {len(files)} photos. Choose at most {current_app.config['MAX_PHOTOS']} at a time.")
    photos = [describe(file) for file in files]  # one after the other: one full-size photo in memory
    for photo in photos:
        if "answer" in photo:
            photo["result"] = wait(photo["answer"])
    statuses = [photo.get("status", 200) for photo in photos]
    return render_template("page.html", photos=photos), 200 if 200 in statuses else statuses[0]


def describe(file) -> dict:
    """What the page shows of one upload: a small copy and the answer to come, or why there is none."""
    try:
        small_copy, answer = enqueue(file, preview)
    except ImageError as error:
        return {"name": file.filename, "error": str(error), "status": IMAGE_STATUS[error.kind]}
    return {"name": file.filename, "answer": answer, **small_copy}


def preview(image: np.ndarray) -> dict:
    """A small copy that travels inside the page; the server keeps nothing."""
    small = Image.fromarray(image)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"source": source, "width": small.width, "height": small.height}


def sentence(text: str) -> str:
    """The model's words as a sentence: "a dog runs" → "A dog runs."."""
    return f"{text[:1].upper()}{text[1:]}." if text else "The model has no words for this."


def confidence(result) -> int:
    """How sure the model was of each word, in per cent: the geometric mean."""
    if not result.words:
        return 0
    return round(100 * math.prod(word.probability for word in result.words) ** (1 / len(result.words)))


def in_words(percent: int) -> str:
    return next(words for least, words in CONFIDENCE.items() if percent >= least)


def attention_levels(attention: np.ndarray) -> str:
    """An attention map as a row of numbers from 0 to 99, the peak, for a data attribute."""
    return " ".join(str(level) for level in np.uint8(attention.ravel() / attention.max() * 99))


# The API, in the contract of IBM's MAX Image Caption Generator


def predict():
    files = uploads()
    if len(files) != 1:
        abort(400, "Send one photo in the multipart field 'image'.")
    try:
        _, answer = enqueue(files[0])
    except ImageError as error:
        abort(IMAGE_STATUS[error.kind], str(error))
    predictions = [
        {"index": str(index), "caption": choice.text, "probability": float(choice.probability)}
        for index, choice in enumerate(wait(answer).alternatives)
    ]
    return jsonify(status="ok", predictions=predictions)


def metadata():
    model = current_app.extensions["generator"].config
    return jsonify(
        id=f"{model['encoder']}-{model['decoder']}-{model['dataset']}".lower(),
        name="Captioner",
        description=f"Describes a photo in an English sentence. Encoder {model['encoder']}, "
        f"decoder {model['decoder']}, trained on {model['dataset']}.",
        type="Image-to-Text",
        source="MODEL_CARD.md",
        license="MIT",
    )


def health():
    """Alive; 503 only if a restart would help."""
    captions = current_app.extensions["captions"]
    if not captions.alive:
        return jsonify(status="error", message="The model has stopped. Start the service again."), 503
    if captions.failing:
        return jsonify(status="degraded", message="The latest batch failed.", failed_batches=captions.failed)
    return jsonify(status="ok")


def ready():
    """create_app() returned, so the model is loaded and warm."""
    if current_app.extensions["stopping"].is_set():
        return jsonify(status="stopping"), 503
    return jsonify(status="ready")


# Shared


def uploads() -> list:
    """The files of the field `image`; a form's empty field is none."""
    return [file for file in request.files.getlist("image") if file.filename]


def begin():
    g.answers, g.deadline = [], time.monotonic() + current_app.config["REQUEST_TIMEOUT"]
    if current_app.extensions["stopping"].is_set() and request.method == "POST":
        busy("stopping", "This service is about to restart. Please try again in a moment.")


def drop_unanswered(_error):
    """Whatever ended the request, its photos that still wait cost no batch."""
    for answer in g.pop("answers", []):
        answer.cancel()


def enqueue(file, look=lambda image: None) -> tuple[object, Future]:
    """Decodes an upload and queues it for its caption; returns what `look` makes of the image, and the answer.

    As many photos are decoded at a time as there are cores: a full-size one takes a lot of memory.
    """
    generator, captions = current_app.extensions["generator"], current_app.extensions["captions"]
    side = generator.config["image_size"]
    try:
        if captions.full:  # known before the work of decoding
            raise QueueFull
        with current_app.extensions["decoders"]:
            image = read_image(file.stream, min_size=(side, side))
            seen, image = look(image), generator.prepare(image)
        gone = request.environ.get("waitress.client_disconnected", lambda: False)
        g.answers.append(captions.submit(image, gone))
    except ImageError as error:
        current_app.extensions["metrics"].errors.labels(error.kind).inc()
        raise
    except QueueFull:
        busy("queue full", "Too many photos are waiting just now. Please try again in a moment.")
    return seen, g.answers[-1]


def wait(answer: Future):
    """The caption, when its batch is done."""
    try:
        return answer.result(max(0, g.deadline - time.monotonic()))
    except (TimeoutError, CancelledError):
        busy("timeout", "This took too long. Please try again in a moment.")
    except Exception:
        current_app.extensions["metrics"].errors.labels("batch failed").inc()
        raise


def busy(kind: str, message: str):
    current_app.extensions["metrics"].errors.labels(kind).inc()
    raise ServiceUnavailable(message, retry_after=5)


def show_error(error: HTTPException):
    """Any error as a page, or as JSON for the API; never a traceback."""
    messages = {
        404: "There is nothing at this address.",
        405: "This address does not answer that kind of request.",
        413: f"That is more than {current_app.config['MAX_CONTENT_LENGTH'] // 2**20} MB or "
        f"{current_app.config['MAX_FORM_PARTS']} fields. Choose fewer or smaller photos.",
        429: "You have sent many photos in a short time. Please wait a minute, then go on.",
        500: "Something went wrong on our side, not with your photo. Please try again.",
    }
    ours = error.description != type(error).description and error.code != 429  # said where it was raised
    message = error.description if ours else messages.get(error.code, error.description)
    response = error.get_response()  # with the headers that belong to it, such as Allow
    if request.path.startswith("/model/"):
        response.data = jsonify(status="error", message=message).data
        response.content_type = "application/json"
    else:
        response.data = render_template("page.html", error=message)
    return response


def add_security_headers(response):
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# The server


def main(arguments: list[str] | None = None) -> int:
    """Serves the page; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serve the captioning page and API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port, 0 for any free one (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        listener = bind(options.host, options.port)
    except (OSError, OverflowError) as error:
        used = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "is used by another program" if used else f"cannot be used ({error})"
        return fail(f"{options.host} port {options.port} {reason}. Choose another with --host or --port.")
    try:
        app = create_app()
    except ValueError as error:  # an ArtifactError, or a setting of the wrong kind
        return fail(str(error))
    operations.log_requests()
    server = serve(app, listener)
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Captioner ready at http://{host}:{listener.getsockname()[1]}", flush=True)
    operations.run(server, app)
    return 0


def bind(host: str, port: int) -> socket.socket:
    """Takes the port before the model loads, so that a used one is known at once. Nobody can connect yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def serve(app: Flask, listener: socket.socket):
    """A production server: waitress, which keeps requests and answers in memory here (a temporary file by default).

    Why not gunicorn: one process holds one model and one queue, and that is all that two cores can use; waitress reads
    a request whole before it takes a thread, so slow clients cost none; and it tells when a client has gone.
    Whoever waits for a caption holds a thread, so there are as many as the queue and two batches hold, and some that
    decode, refuse and answer probes. A request that is up to twice too large is read all the same: a browser shows
    our error page only then.
    """
    most = 2 * app.config["MAX_CONTENT_LENGTH"]
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=app.config["QUEUE_LENGTH"] + 2 * app.config["MAX_BATCH"] + 8,
        connection_limit=1000,
        asyncore_use_poll=True,  # more than 1024 open files
        channel_request_lookahead=1,  # watches the connection while a request waits
        recv_bytes=2**16,
        max_request_body_size=most,
        inbuf_overflow=most,
        outbuf_overflow=most,
    )
    server.channel_class = operations.BoundedChannel
    return server


def fail(message: str) -> int:
    print(f"Captioner cannot start: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
