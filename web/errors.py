"""Errors as a page or, for the API, as JSON. No traceback reaches a client."""

from flask import Flask, current_app, jsonify, render_template, request
from flask_babel import gettext as _
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from web.language import caption_language
from web.pages import PageOptions
from web.uploads import VIDEOS

API_PATHS = {"api", "health", "metrics", "model", "openapi.json", "ready"}  # their errors are JSON


def add_error_pages(app: Flask) -> None:
    app.register_error_handler(HTTPException, show_error)


def is_api() -> bool:
    return request.path.split("/")[1] in API_PATHS


def show_error(error: HTTPException) -> Response:
    megabytes, parts = current_app.config["MAX_CONTENT_LENGTH"] // 2**20, current_app.config["MAX_FORM_PARTS"]
    messages = {
        400: _("The server could not process this request."),
        404: _("There is nothing at this address."),
        405: _("This address does not accept this kind of request."),
        413: _("The upload has more than %(megabytes)s MB, or more than %(parts)s files and texts. "
               "Choose fewer or smaller photos.",
               megabytes=megabytes, parts=parts),
        429: _("You have sent too many requests in a short time. Please wait and try again."),
        500: _("Something went wrong on our side, not with your photo. Please try again."),
    }  # fmt: skip
    if request.path == VIDEOS:
        megabytes = current_app.config["VIDEO_BYTES"] // 2**20
        messages[413] = _("The clip has more than %(megabytes)s MB. Cut it or save it smaller.", megabytes=megabytes)
    is_specific = error.description != type(error).description and error.code != 429  # set where it was raised
    message = error.description if is_specific else messages.get(error.code or 500, error.description)
    response = error.get_response()  # with its headers, such as Allow
    if is_api():
        response.data = jsonify(status="error", message=message).data
        response.content_type = "application/json"
    elif request.path == "/html":
        response.data = render_template("html.html", chosen=caption_language(), error=message)
    else:
        response.data = render_template("page.html", options=PageOptions(), error=message)
    return response
