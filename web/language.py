"""The language of the page and of its captions, as the visitor's browser asks for it."""

from collections.abc import Sequence

from babel import negotiate_locale
from flask import Flask, Response, request
from flask_babel import Babel, get_locale

LANGUAGES = ["en", "de", "fr", "cs"]  # of the page; translations/ holds all but English


def add_languages(app: Flask) -> None:
    Babel(app, locale_selector=choose_language)

    @app.after_request
    def add_header(response: Response) -> Response:
        if response.mimetype == "text/html" or response.status_code >= 400:  # the rest has no text to translate
            response.content_language.add(str(get_locale()))
            response.vary.add("Accept-Language")
        return response


def choose_language() -> str:
    """The first language of the visitor that is in `LANGUAGES`, else English."""
    return visitors_language(LANGUAGES)


def visitors_language(available: Sequence[str]) -> str:
    """The first language of the visitor that is available, else the first one available."""
    wanted = [language.replace("-", "_") for language in request.accept_languages.values()]
    return negotiate_locale(wanted, available) or available[0]
