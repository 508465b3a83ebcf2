"""The web application: a page and an API that caption photos.

python app.py --port 8000
"""

import argparse
import errno
import sys
from pathlib import Path

from flask import Flask, request
from flask_compress import Compress
from flask_openapi import OpenAPI

from captioning.generator import CaptionGenerator
from web import (
    api,
    errors,
    html_pages,
    language,
    metrics,
    model,
    pages,
    photo_downloads,
    security,
    server,
    settings,
    tracing,
    uploads,
    videos,
)
from web.schemas import Problem

ROOT = Path(__file__).parent
ANOTHER = "Choose another: --host or --port of app.py, or make run PORT=…"


def create_app(config: dict | None = None, generator: CaptionGenerator | None = None) -> Flask:
    """Build the application. When this returns, it is ready for its first photo.

    Args:
        config: settings that replace those of `web.settings` and of the environment.
        generator: a warm `CaptionGenerator`; by default the model in ``ARTIFACTS_DIR``.

    Raises:
        ArtifactError: the model cannot be loaded; the message says why and what to do.
        ValueError: a setting is of the wrong kind.
    """
    app = OpenAPI(
        __name__,
        info={"title": "Captioner", "version": "1.0", "description": "Captions for photos. Nothing is stored."},
        doc_ui=False,  # `web.api` has its own, without inline scripts
        validation_error_status=400,
        validation_error_model=Problem,
        validation_error_callback=api.refuse,
    )
    app.openapi_version = "3.1.0"
    app.request_class = uploads.UploadRequest
    settings.load_settings(app.config, ROOT)
    app.config.update(config or {})

    app.config["COMPRESS_MIMETYPES"] = ["text/html", "text/css", "text/javascript", "image/svg+xml"]
    tracing.add_tracing(app)
    model.add_model(app, generator)
    metrics.add_monitoring(app)
    Compress(app)  # behind the monitoring, which then sees the answer as it is sent
    app.before_request(send_parts_as_they_are)
    uploads.add_limits(app)
    security.limit_clients(app)
    security.require_keys(app)
    language.add_languages(app)
    pages.add_page(app)
    html_pages.add_html_page(app)
    photo_downloads.add_photo_downloads(app)
    api.add_api(app)
    videos.add_videos(app)
    errors.add_error_pages(app)
    security.add_headers(app)
    security.allow_origins(app)
    return app


def send_parts_as_they_are() -> None:
    """No compression where a range of bytes is asked for: it would be a range of the compressed file."""
    if "Range" in request.headers:
        request.environ.pop("HTTP_ACCEPT_ENCODING", None)


def main(arguments: list[str] | None = None) -> int:
    """Serve the application; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serve the captioning page and API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port, 0 for any free one (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        listener = server.bind(options.host, options.port)
    except (OSError, OverflowError) as error:
        return fail(f"{options.host} port {options.port} {describe(error)}. {ANOTHER}")
    try:
        app = create_app()
    except ValueError as error:  # an ArtifactError, or a setting of the wrong kind
        return fail(str(error))
    except KeyboardInterrupt:
        return 130
    try:
        metrics.serve_separately(app)
    except (OSError, OverflowError) as error:
        return fail(f"CAPTIONER_METRICS_LISTEN={app.config['METRICS_LISTEN']} {describe(error)}. Choose another port.")
    metrics.log_requests()
    try:
        waitress_server = server.make_server(app, listener)
    except OSError as error:  # another program has begun to listen on the port since
        return fail(f"{options.host} port {options.port} {describe(error)}. {ANOTHER}")
    host = f"[{options.host}]" if ":" in options.host else options.host
    server.run(waitress_server, app, f"Captioner ready at http://{host}:{listener.getsockname()[1]}")
    return 0


def describe(error: OSError | OverflowError) -> str:
    """Why an address and port cannot be used."""
    used = getattr(error, "errno", None) == errno.EADDRINUSE
    return "is used by another program" if used else f"cannot be used ({error})"


def fail(message: str) -> int:
    print(f"Captioner cannot start: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
