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
from pathlib import Path

import numpy as np
import waitress
from flask import Flask, Request, abort, current_app, jsonify, render_template, request
from PIL import Image
from werkzeug.exceptions import HTTPException

from captioning.artifacts import ArtifactError, check_manifest
from captioning.images import ImageError, read_image

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
    """
    app = Flask(__name__)
    app.request_class = InMemoryRequest
    app.config.update(
        ARTIFACTS_DIR=os.environ.get("ARTIFACTS_DIR", Path(__file__).parent / "artifacts"),
        BEAM_WIDTH=5,  # also the number of captions to choose from
        MAX_CONTENT_LENGTH=32 * 2**20,  # bytes of all photos in a request
        MAX_PHOTOS=20,  # in a request
    )
    app.config.update(config or {})
    app.extensions["generator"] = generator or load_generator(app.config)
    app.extensions["generator_lock"] = threading.Lock()

    # No CSRF protection: there is no session and no state that a forged request could use or change.
    app.get("/")(page)
    app.post("/")(caption_photos)
    app.post("/model/predict")(predict)
    app.get("/model/metadata")(metadata)
    app.get("/health")(health)
    app.get("/ready")(ready)
    app.register_error_handler(HTTPException, show_error)
    app.after_request(add_security_headers)
    for template_filter in (sentence, confidence, in_words, attention_levels):
        app.add_template_filter(template_filter)
    return app


def load_generator(config):
    """Loads the trained model and runs it once, so that no visitor waits for that."""
    check_manifest(config["ARTIFACTS_DIR"])  # first, because TensorFlow takes seconds to import
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its warnings are not for the person who starts this
    from generate_captions import CaptionGenerator

    generator = CaptionGenerator.load(config["ARTIFACTS_DIR"])
    generator.warm_up(beam_width=config["BEAM_WIDTH"])
    return generator


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
    return render_template("page.html", photos=photos), 400 if all("error" in photo for photo in photos) else 200


def describe(file) -> dict:
    """What the page shows of one upload: its caption and a small copy, or why it has none."""
    try:
        image = read(file)
    except ImageError as error:
        return {"name": file.filename, "error": str(error)}
    return {"name": file.filename, "result": caption(image), **preview(image)}


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
        image = read(files[0])
    except ImageError as error:
        abort(400, str(error))
    predictions = [
        {"index": str(index), "caption": choice.text, "probability": float(choice.probability)}
        for index, choice in enumerate(caption(image).alternatives)
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
    return jsonify(status="ok")


def ready():
    return jsonify(status="ready")  # create_app() returned, so the model is loaded and warm


# Shared


def uploads() -> list:
    """The files of the field `image`; a form's empty field is none."""
    return [file for file in request.files.getlist("image") if file.filename]


def read(file) -> np.ndarray:
    side = current_app.extensions["generator"].config["image_size"]
    return read_image(file.stream, min_size=(side, side))


def caption(image: np.ndarray):
    generator, width = current_app.extensions["generator"], current_app.config["BEAM_WIDTH"]
    image = generator.prepare(image)
    with current_app.extensions["generator_lock"]:
        return generator.caption(image, beam_width=width, alternatives=width)


def show_error(error: HTTPException):
    """Any error as a page, or as JSON for the API; never a traceback."""
    message = {
        404: "There is nothing at this address.",
        405: "This address does not answer that kind of request.",
        413: f"That is more than {current_app.config['MAX_CONTENT_LENGTH'] // 2**20} MB. "
        "Choose fewer or smaller photos.",
        500: "Something went wrong on our side, not with your photo. Please try again.",
    }.get(error.code, error.description)
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
        app = create_app()
    except (OSError, OverflowError) as error:
        used = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "is used by another program" if used else f"cannot be used ({error})"
        return fail(f"{options.host} port {options.port} {reason}. Choose another with --host or --port.")
    except ArtifactError as error:
        return fail(str(error))
    server = serve(app, listener)
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Captioner ready at http://{host}:{listener.getsockname()[1]}", flush=True)
    server.run()
    return 0


def bind(host: str, port: int) -> socket.socket:
    """Takes the port before the model loads, so that a used one is known at once. Nobody can connect yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def serve(app: Flask, listener: socket.socket):
    """A production server that keeps requests and answers in memory, where its default is a temporary file.

    A request that is up to twice too large is read all the same: a browser shows our error page only then.
    """
    most = 2 * app.config["MAX_CONTENT_LENGTH"]
    return waitress.create_server(
        app, sockets=[listener], threads=8, max_request_body_size=most, inbuf_overflow=most, outbuf_overflow=most
    )


def fail(message: str) -> int:
    print(f"Captioner cannot start: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
