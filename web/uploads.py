"""From an upload to its caption, for the page and the API."""

import io
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from threading import Semaphore
from typing import IO, Any, NoReturn

from flask import Flask, Request, Response, abort, current_app, g, request
from flask_babel import gettext as _
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.formparser import FormDataParser

from captioning.batching import QueueFull
from captioning.cores import CPU_COUNT
from captioning.generator import MAX_BEAM_WIDTH, Caption
from captioning.image_workers import NoWorker
from captioning.images import ImageError, Photo
from web.tracing import span

VIDEOS = "/api/videos"
RETRY_AFTER = 5  # seconds
MAX_FIELDS = 100_000  # of a form without files: four for each caption that the gallery downloads
IMAGE_STATUS = {"unsupported": 415, "damaged": 422, "too large": 413}


class UploadRequest(Request):
    """A request whose photos stay in memory (Werkzeug writes large ones to disk), within MAX_CONTENT_LENGTH.

    A clip is written to a file without a name, which the system removes when it is closed, even if this process is
    killed.
    """

    def _get_file_stream(self, *args: Any, **kwargs: Any) -> IO[bytes]:
        return tempfile.TemporaryFile() if self.path == VIDEOS else io.BytesIO()

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False  # else a broken form looks like one without files
        return parser

    def _load_form_data(self) -> None:
        try:
            super()._load_form_data()
        except OSError:  # a full disk, or a container without a writable folder
            if self.path != VIDEOS:
                raise
            refuse_busy("no disk", _("This server has no disk space for clips. Tell its operator."))
        except ValueError:
            abort(
                400,
                _("The form cannot be read. Send it again, complete, with its boundary and with names in UTF-8."),
            )


class SearchOptions(BaseModel):
    """The query string for a clip."""

    model_config = ConfigDict(extra="forbid")  # a misspelt option must not be ignored

    beam_width: int | None = Field(
        default=None, ge=1, le=MAX_BEAM_WIDTH, description="Candidate captions that the beam search keeps at each word."
    )
    language: str | None = Field(default=None, description="Of the captions; by default the model's first one.")

    @field_validator("language")
    @classmethod
    def check_language(cls, language: str | None) -> str | None:
        available = current_app.extensions["captions"].generator.languages
        if language and language not in available:
            raise PydanticCustomError("language", f"The model has captions in: {', '.join(available)}")
        return language


class Options(SearchOptions):
    """What the query strings for photos, of the page and of the API, have in common."""

    alternatives: int | None = Field(
        default=None,
        ge=1,
        le=5,
        description="Captions per photo, the best one first; more than the beam width widens the beam. "
        "By default 3, or the beam width if that is less.",
    )

    @property
    def width(self) -> int:
        return max(self.beam_width or current_app.config["BEAM_WIDTH"], self.alternatives or 1)

    @property
    def shown(self) -> int:
        """How many captions are shown: by default up to three."""
        return self.alternatives or min(3, self.width)


def uploads(field: str = "image") -> list[FileStorage]:
    """The files of a field, without the empty one that a browser sends if none is chosen."""
    return [file for file in request.files.getlist(field) if file.filename or length(file)]


def length(file: FileStorage) -> int:
    """The number of bytes of an upload."""
    end = file.stream.seek(0, io.SEEK_END)
    file.stream.seek(0)
    return end


def one_upload() -> FileStorage:
    """The file of the field `image`."""
    files = uploads()
    if len(files) != 1:
        abort(400, _("Send one photo in the multipart field 'image'."))
    return files[0]


def several_uploads() -> list[FileStorage]:
    """`uploads`, at most MAX_PHOTOS."""
    files, most = uploads(), current_app.config["MAX_PHOTOS"]
    if len(files) > most:
        abort(400, _("You chose %(count)s photos. Choose at most %(most)s at a time.", count=len(files), most=most))
    return files


def add_limits(app: Flask) -> None:
    """Set a deadline for every request, and drop the waiting photos of requests that have ended."""
    app.before_request(begin)
    app.teardown_request(drop_unanswered)


def begin() -> None:
    """Before each request: set its deadline; refuse too many fields, and photos while the service stops."""
    g.pending, g.group = [], object()  # photos and captions that are not there yet; what they belong to
    g.deadline = time.monotonic() + current_app.config["REQUEST_TIMEOUT"]
    if request.mimetype == "application/x-www-form-urlencoded" and request.get_data().count(b"&") >= MAX_FIELDS:
        abort(413)  # MAX_FORM_PARTS holds for multipart forms only, and millions of fields fill the memory
    if current_app.extensions["stopping"].is_set() and request.method == "POST":
        refuse_busy("stopping", _("This service is about to restart. Please try again in a moment."))


def drop_unanswered(_error: BaseException | None) -> None:
    """After each request, even a failed one: drop its photos that still wait."""
    for future in g.pop("pending", []):
        future.cancel()


def enqueue(
    files: Iterable[FileStorage], options: Options, preview: int | None = None
) -> Iterator[tuple[Photo, Future[Caption]] | ImageError]:
    """Read uploads and queue each for its caption. An upload that cannot be read gives an error instead.

    As many are read at a time as there are cores, so that a request with many photos leaves room for others.

    Args:
        preview: the longer side of the photos' previews in pixels, or None for no previews.

    Raises:
        ServiceUnavailable: too many photos wait, or the request's deadline has passed.
    """
    started: deque[tuple[Future[Photo], Future[Caption]]] = deque()
    for file in files:
        started.append(start(file, options, preview))
        if len(started) == CPU_COUNT:
            yield finish(*started.popleft())
    while started:
        yield finish(*started.popleft())


def start(file: FileStorage, options: Options, preview: int | None) -> tuple[Future[Photo], Future[Caption]]:
    captions = current_app.extensions["captions"]
    size = captions.generator.config["image_size"]
    gone = request.environ.get("waitress.client_disconnected", lambda: False)
    if gone():
        refuse_gone()
    read = partial(submit, file, size, preview)
    try:
        photo, answer = captions.submit_unread(read, gone, g.group, options.width, options.language)
    except QueueFull:
        refuse_full()
    except ValueError:  # a reload has taken the language away; the next try says so
        refuse_busy("reloaded", _("This service has a new model. Please try again in a moment."))
    g.pending.append(answer)
    return photo, answer


def finish(photo: Future[Photo], answer: Future[Caption]) -> tuple[Photo, Future[Caption]] | ImageError:
    try:
        return wait_until_read(photo), answer
    except ImageError as error:
        return error


def submit(file: FileStorage, size: int, preview: int | None) -> Future[Photo]:
    """Read an upload in a worker process."""
    g.pending.append(current_app.extensions["images"].submit(file.stream.read(), size=size, preview=preview))
    return g.pending[-1]


def wait_until_read(photo: Future[Photo]) -> Photo:
    """Raises ImageError, or ServiceUnavailable after the request's deadline."""
    errors = current_app.extensions["metrics"].errors
    try:
        with span("read photo"):
            return photo.result(seconds_left())
    except TimeoutError:
        refuse_late()
    except ImageError as error:
        errors.labels(error.kind).inc()
        raise
    except NoWorker:
        refuse_without_process()
    except RuntimeError:
        errors.labels("no worker").inc()
        raise


def wait(answer: Future[Caption]) -> Caption:
    """The caption, when its batch is done. Raises ServiceUnavailable after the request's deadline."""
    try:
        with span("wait for caption"):
            return answer.result(seconds_left())
    except TimeoutError:
        refuse_late()
    except CancelledError:  # the queue drops photos of clients that have hung up
        refuse_gone()
    except Exception:
        current_app.extensions["metrics"].errors.labels("batch failed").inc()
        raise


def seconds_left() -> float:
    """Until the request's deadline."""
    return max(0, g.deadline - time.monotonic())


@contextmanager
def limited(places: Semaphore) -> Iterator[None]:
    """Take one of the places for work on a request while the block runs. Raises ServiceUnavailable if all are taken."""
    if not places.acquire(blocking=False):
        refuse_full()
    try:
        yield
    finally:
        places.release()


def refuse_gone() -> NoReturn:
    """Answer 499, as in nginx's log; nobody reads it."""
    current_app.extensions["metrics"].errors.labels("client gone").inc()
    abort(Response(status=499))


def refuse_late() -> NoReturn:
    """Answer 503: the request's deadline has passed."""
    refuse_busy("timeout", _("This took too long. Please try again in a moment."))


def refuse_full() -> NoReturn:
    """Answer 503: too many photos wait."""
    refuse_busy("queue full", _("Too many photos are waiting. Please try again in a moment."))


def refuse_without_process() -> NoReturn:
    """Answer 503: the system starts no process that reads untrusted files."""
    refuse_busy("no worker", _("This server cannot start a process. Try again in a moment, or tell its operator."))


def refuse_busy(kind: str, message: str, retry_after: int = RETRY_AFTER) -> NoReturn:
    """Answer 503, and count it under ``kind``."""
    g.retry_after = retry_after
    current_app.extensions["metrics"].errors.labels(kind).inc()
    raise ServiceUnavailable(message)
