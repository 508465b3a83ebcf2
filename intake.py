"""From an upload to its caption: what the page and the API share."""

import io
import time
from concurrent.futures import CancelledError, Future

from flask import Request, abort, current_app, g, request
from flask_babel import gettext as _
from pydantic import BaseModel, Field
from werkzeug.exceptions import ServiceUnavailable

from captioning.images import ImageError, open_photo
from captioning.serving import QueueFull

IMAGE_STATUS = {"unsupported": 415, "damaged": 422, "too large": 413}


class InMemoryRequest(Request):
    """A request whose uploads stay in memory (Werkzeug writes large ones to disk), within MAX_CONTENT_LENGTH."""

    def _get_file_stream(self, total_content_length, content_type, filename=None, content_length=None):
        return io.BytesIO()


class Options(BaseModel):
    """What may be asked for in the query string, of the page and of the API."""

    beam_width: int | None = Field(None, ge=1, le=10, description="Sentences that are followed side by side.")
    alternatives: int | None = Field(
        None, ge=1, le=5, description="Captions to choose from, the best one first; the beam is at least as wide."
    )

    @property
    def width(self) -> int:
        return max(self.beam_width or current_app.config["BEAM_WIDTH"], self.alternatives or 1)

    @property
    def shown(self) -> int:
        """Alternatives that are shown: by default up to three."""
        return self.alternatives or min(3, self.width)


def uploads() -> list:
    """The files of the field `image`; a form's empty field is none."""
    return [file for file in request.files.getlist("image") if file.filename]


def several_uploads() -> list:
    files, most = uploads(), current_app.config["MAX_PHOTOS"]
    if len(files) > most:
        abort(400, _("These are %(count)s photos. Choose at most %(most)s at a time.", count=len(files), most=most))
    return files


def begin():
    g.answers, g.deadline = [], time.monotonic() + current_app.config["REQUEST_TIMEOUT"]
    if current_app.extensions["stopping"].is_set() and request.method == "POST":
        busy("stopping", _("This service is about to restart. Please try again in a moment."))


def drop_unanswered(_error):
    """Whatever ended the request, its photos that still wait cost no batch."""
    for answer in g.pop("answers", []):
        answer.cancel()


def enqueue(file, options: Options, look=lambda photo: None) -> tuple[object, Future]:
    """Decodes an upload and queues it for its caption; returns what `look` makes of the image, and the answer.

    `look` may change the image.

    As many photos are decoded at a time as there are cores: a full-size one takes a lot of memory.
    """
    generator, captions = current_app.extensions["generator"], current_app.extensions["captions"]
    side = generator.config["image_size"]
    try:
        if captions.full:  # known before the work of decoding
            raise QueueFull
        with current_app.extensions["decoders"]:
            photo = decode(file, side)
            image, seen = generator.prepare(photo), look(photo)
        gone = request.environ.get("waitress.client_disconnected", lambda: False)
        g.answers.append(captions.submit(image, gone, beam_width=options.width, alternatives=options.width))
    except QueueFull:
        busy("queue full", _("Too many photos are waiting just now. Please try again in a moment."))
    return seen, g.answers[-1]


def decode(file, side: int):
    """An upload as RGB image, at least twice `side` where it was that large."""
    try:
        return open_photo(file.stream, min_size=(side, side))
    except ImageError as error:
        current_app.extensions["metrics"].errors.labels(error.kind).inc()
        raise


def wait(answer: Future):
    """The caption, when its batch is done."""
    try:
        return answer.result(max(0, g.deadline - time.monotonic()))
    except (TimeoutError, CancelledError):
        busy("timeout", _("This took too long. Please try again in a moment."))
    except Exception:
        current_app.extensions["metrics"].errors.labels("batch failed").inc()
        raise


def busy(kind: str, message: str):
    current_app.extensions["metrics"].errors.labels(kind).inc()
    raise ServiceUnavailable(message, retry_after=5)
