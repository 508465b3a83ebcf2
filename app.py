"""The web side: one page and an API over HTTP. `create_app()` is the table of contents.

```
python app.py --port 8000
```
"""

import argparse
import errno
import os
import socket
import sys
import threading
from pathlib import Path

import limits
import waitress
from babel import negotiate_locale
from flask import Flask, current_app, jsonify, render_template, request
from flask_babel import Babel, get_locale
from flask_babel import gettext as _
from flask_openapi import OpenAPI
from werkzeug.exceptions import HTTPException

import api
import intake
import operations
import page
from captioning.artifacts import check_manifest
from captioning.serving import CaptionQueue

LANGUAGES = ["en", "de"]  # of the page's texts; translations/ holds all but English

API_PATHS = {"api", "health", "metrics", "model", "openapi.json", "ready"}  # errors are JSON there

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # an answer holds a photo
}


def create_app(config: dict | None = None, generator=None) -> Flask:
    """Builds the application; it is ready for its first photo when this returns.

    Args:
        config: settings that replace the ones below.
        generator: a warm `CaptionGenerator`; by default the one in `ARTIFACTS_DIR`.

    Raises:
        ArtifactError: the model cannot be loaded; the message says why and what to do.
        ValueError: a setting is of the wrong kind.
    """
    app = OpenAPI(
        __name__,
        info={"title": "Captioner", "version": "1.0", "description": "Captions for photos. Nothing is stored."},
        doc_ui=False,  # ours are add_api's, without scripts inside the page
        validation_error_status=400,
        validation_error_model=api.Problem,
        validation_error_callback=api.refuse,
    )
    app.openapi_version = "3.1.0"
    app.request_class = intake.InMemoryRequest
    app.config.update(
        ARTIFACTS_DIR=os.environ.get("ARTIFACTS_DIR", Path(__file__).parent / "artifacts"),
        BEAM_WIDTH=3,  # also the number of captions to choose from
        MAX_CONTENT_LENGTH=32 * 2**20,  # bytes of all photos in a request
        MAX_PHOTOS=20,  # in a request
        MAX_FORM_PARTS=100,  # files and other fields in a request
        MAX_BATCH=20,  # photos that the model sees at once
        BATCH_WAIT=0,  # seconds that a photo waits for company when the model is idle
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
    app.before_request(intake.begin)
    app.teardown_request(intake.drop_unanswered)
    operations.limit_clients(app)
    Babel(app, locale_selector=choose_language)

    # No CSRF protection: there is no session and no state that a forged request could use or change.
    page.add_page(app)
    api.add_api(app)
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/ready", view_func=ready)
    app.add_url_rule("/metrics", view_func=metrics.show)
    app.register_error_handler(HTTPException, show_error)
    app.after_request(add_headers)
    operations.allow_origins(app)
    return app


def choose_language() -> str:
    """The visitor's favourite among ours."""
    wanted = [language.replace("-", "_") for language in request.accept_languages.values()]
    return negotiate_locale(wanted, LANGUAGES) or "en"


def read_settings(config) -> None:
    """Lets the environment replace settings: CAPTIONER_QUEUE_LENGTH=128 is QUEUE_LENGTH."""
    defaults = dict(config)
    config.from_prefixed_env("CAPTIONER")
    for name, default in defaults.items():
        if not is_understood(name, config[name], default):
            raise ValueError(f"CAPTIONER_{name}={config[name]!r} is not understood. An example: {default!r}.")


def is_understood(name: str, value, default) -> bool:
    if name == "RATE_LIMIT":
        try:
            return not value or bool(limits.parse_many(str(value)))
        except ValueError:
            return False
    if isinstance(default, list):
        return isinstance(value, list)
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return isinstance(value, (int, type(default))) and value >= (0 if name in ("BATCH_WAIT", "PROXIES") else 1)
    return True


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


# Answers of the service as a whole


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


def show_error(error: HTTPException):
    """Any error as a page, or as JSON for the API; never a traceback."""
    megabytes, parts = current_app.config["MAX_CONTENT_LENGTH"] // 2**20, current_app.config["MAX_FORM_PARTS"]
    messages = {
        404: _("There is nothing at this address."),
        405: _("This address does not answer that kind of request."),
        413: _("That is more than %(megabytes)s MB or %(parts)s fields. Choose fewer or smaller photos.",
               megabytes=megabytes, parts=parts),
        429: _("You have sent many photos in a short time. Please wait a minute, then go on."),
        500: _("Something went wrong on our side, not with your photo. Please try again."),
    }  # fmt: skip
    ours = error.description != type(error).description and error.code != 429  # said where it was raised
    message = error.description if ours else messages.get(error.code, error.description)
    response = error.get_response()  # with the headers that belong to it, such as Allow
    if request.path.split("/")[1] in API_PATHS:
        response.data = jsonify(status="error", message=message).data
        response.content_type = "application/json"
    else:
        response.data = render_template("page.html", error=message, options=intake.Options())
    return response


def add_headers(response):
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "text/html" or response.status_code >= 400:  # the rest says the same in any language
        response.content_language.add(str(get_locale()))
        response.vary.add("Accept-Language")
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
