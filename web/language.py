"""The language of the page and of its captions, as the visitor's browser asks for it."""

from collections.abc import Sequence

from babel import negotiate_locale
from flask import Flask, Response, current_app, request
from flask_babel import Babel, get_locale

from captioning import languages as captions

LANGUAGES = ["en", "de", "fr", "cs"]  # of the page; translations/ holds all but English


def add_languages(app: Flask) -> None:
    Babel(app, locale_selector=lambda: visitors_language(LANGUAGES))
    app.context_processor(lambda: {"languages": language_names()})

    @app.after_request
    def add_header(response: Response) -> Response:
        if response.mimetype == "text/html" or response.status_code >= 400:  # the rest has no text to translate
            response.content_language.add(str(get_locale()))
            response.vary.add("Accept-Language")
        return response


def caption_language(chosen: str | None = None) -> str:
    """The language of captions on a page: the one that was chosen, if the model has it; else the visitor's."""
    available: list[str] = current_app.extensions["captions"].generator.languages
    return chosen if chosen in available else visitors_language(available)


def language_names() -> dict[str, str]:
    """The code and the name of each language that the model has captions in."""
    return {code: captions.LANGUAGES[code].name for code in current_app.extensions["captions"].generator.languages}


def visitors_language(available: Sequence[str]) -> str:
    """The first language of the visitor that is available, else the first one available."""
    wanted = [language.replace("-", "_") for language, quality in request.accept_languages if quality]
    return (negotiate_locale(wanted, available) or available[0]).lower()  # in the visitor's spelling: DE, de-CH
