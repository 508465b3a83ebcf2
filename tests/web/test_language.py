"""The language of the page and of its errors."""

from pathlib import Path

import pytest
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from helpers import ROOT, broken, photo

from web.pages import sentence


@pytest.mark.parametrize(
    ("wanted", "language", "title"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Eine Beschreibung für jedes Foto"),
        ("en-GB,de;q=0.5", "en", "A caption for every photo"),
        ("fr", "en", "A caption for every photo"),
        ("", "en", "A caption for every photo"),
    ],
)
def test_page_is_in_the_language_of_the_visitor(small_app, wanted, language, title):
    response = small_app.test_client().get("/", headers={"Accept-Language": wanted})
    assert f'<html lang="{language}">' in response.text and title in response.text
    assert response.headers["Content-Language"] == language and "Accept-Language" in response.headers["Vary"]


def test_captions_stay_english_and_errors_are_translated(client, expected):
    german = {"Accept-Language": "de"}
    response = client.post("/", data={"image": [photo(), broken()]}, headers=german)
    assert f'<span lang="en">{sentence(expected().text)}</span>' in response.text
    assert "Text zum Veröffentlichen" in response.text and "kein Foto, das wir lesen können" in response.text
    answer = client.post("/model/predict", data={"image": broken()}, headers=german)
    assert "kein Foto, das wir lesen können" in answer.json["message"] and answer.headers["Content-Language"] == "de"


def test_every_text_is_translated():
    """After a change of texts, extract and compile them again: README has the commands."""
    folder = ROOT / "translations" / "de" / "LC_MESSAGES"
    with open(folder / "messages.po", "rb") as po, open(folder / "messages.mo", "rb") as mo:
        written, compiled = read_po(po), read_mo(mo)
    keywords = DEFAULT_KEYWORDS | {"lazy_gettext": None, "ImageError": None, "VideoError": None}
    methods = [
        ("captioning/images.py", "python"),
        ("captioning/video.py", "python"),
        ("templates/*.html", "jinja2"),
        ("web/*.py", "python"),
    ]

    def has_texts(folder: str) -> bool:
        return Path(folder).name in {"captioning", "templates", "web"}

    texts = {message[2] for message in extract_from_dir(ROOT, methods, keywords=keywords, directory_filter=has_texts)}
    messages = [message for message in written if message.id]
    assert texts == {message.id for message in messages}
    for message in messages:
        assert message.string and not message.fuzzy
        assert list(compiled[message.id].string) == list(message.string)  # letters, or singular and plural
