"""The language of the page and of its errors."""

from pathlib import Path

import pytest
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from helpers import ROOT, broken, photo, picture
from markupsafe import escape

from web.language import LANGUAGES
from web.pages import sentence


@pytest.mark.parametrize(
    ("wanted", "language", "title"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Eine Beschreibung für jedes Foto"),
        ("en-GB,de;q=0.5", "en", "A caption for every photo"),
        ("fr-CA", "fr", "Une description pour chaque photo"),
        ("DE-at", "de", "Eine Beschreibung für jedes Foto"),
        ("cs", "cs", "Popisek ke každé fotce"),
        ("eo,de;q=0", "en", "A caption for every photo"),
        ("", "en", "A caption for every photo"),
    ],
)
def test_page_is_in_the_language_of_the_visitor(small_app, wanted, language, title):
    response = small_app.test_client().get("/", headers={"Accept-Language": wanted})
    assert f'<html lang="{language}">' in response.text and title in response.text
    assert response.headers["Content-Language"] == language and "Accept-Language" in response.headers["Vary"]


def test_captions_and_errors_are_in_the_language_of_the_visitor(client, generator):
    german = {"Accept-Language": "de"}
    response = client.post("/", data={"image": [photo(), broken()]}, headers=german)
    caption = generator.caption(picture(), language="de")
    assert f'<span lang="de">{sentence(caption.text)}</span>' in response.text
    assert '<option value="de" lang="de" selected>Deutsch</option>' in response.text
    assert "Text zum Veröffentlichen" in response.text and "kein Foto, das wir lesen können" in response.text
    answer = client.post("/model/predict", data={"image": broken()}, headers=german)
    assert "kein Foto, das wir lesen können" in answer.json["message"] and answer.headers["Content-Language"] == "de"


def test_the_spelling_of_the_language_does_not_matter(client, generator):
    response = client.post("/", data={"image": photo()}, headers={"Accept-Language": "DE"})
    assert f'<span lang="de">{sentence(generator.caption(picture(), language="de").text)}</span>' in response.text


def test_captions_in_the_language_that_was_chosen(post, generator):
    response = post(photo(), language="fr")
    caption = sentence(generator.caption(picture(), language="fr").text)
    assert f'<span lang="fr">{escape(caption)}</span>' in response.text
    assert '<input type="hidden" name="language" value="fr">' in response.text
    assert '<option value="fr" lang="fr" selected>Français</option>' in response.text
    assert "language=fr#captions" in response.text


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_text_is_translated(language):
    """After a change of texts, extract and compile them again: docs/translating.md has the commands."""
    folder = ROOT / "translations" / language / "LC_MESSAGES"
    with open(folder / "messages.po", "rb") as po, open(folder / "messages.mo", "rb") as mo:
        written, compiled = read_po(po), read_mo(mo)
    keywords = DEFAULT_KEYWORDS | {"lazy_gettext": None, "ImageError": None, "HtmlError": None, "VideoError": None}
    methods = [("captioning/*.py", "python"), ("templates/*.html", "jinja2"), ("web/*.py", "python")]

    def has_texts(folder: str) -> bool:
        return Path(folder).name in {"captioning", "templates", "web"}

    texts = {message[2] for message in extract_from_dir(ROOT, methods, keywords=keywords, directory_filter=has_texts)}
    messages = [message for message in written if message.id]
    assert texts == {message.id for message in messages}
    for message in messages:
        assert message.string and not message.fuzzy
        assert list(compiled.get(message.id, message.context).string) == list(
            message.string
        )  # letters, or singular and plural
