"""Captions of each language are split into words and joined again."""

import unicodedata

import pytest

from captioning.languages import LANGUAGES


@pytest.mark.parametrize(
    ("language", "caption", "words"),
    [
        (
            "en",
            "A tri-colored dog's 2 toys , in the T-shirt .",
            ["a", "tri-colored", "dog's", "2", "toys", "in", "the", "t-shirt"],
        ),
        ("en", "_foo_ -- ...", ["foo"]),
        ("de", "Ein schwarz-weißer Hund, im Gras.", ["Ein", "schwarz-weißer", "Hund", "im", "Gras"]),
        (
            "fr",
            "L’homme s'assoit près d'un arc-en-ciel.",
            ["l'", "homme", "s'", "assoit", "près", "d'", "un", "arc-en-ciel"],
        ),
        ("fr", "Aujourd'hui, il pleut", ["aujourd'hui", "il", "pleut"]),
        ("cs", "Muž leží na lavičce.", ["muž", "leží", "na", "lavičce"]),
    ],
)
def test_words(language, caption, words):
    assert LANGUAGES[language].words(caption) == words
    assert LANGUAGES[language].words(unicodedata.normalize("NFD", caption)) == words


def test_joining():
    assert LANGUAGES["fr"].join(["l'", "homme", "près", "d'", "un", "chien"]) == "l'homme près d'un chien"
    assert LANGUAGES["en"].join(["a", "dog's", "toy"]) == "a dog's toy"


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_function_words_are_words_of_their_language(language):
    words = language.function_words.split()
    assert language.words(language.join(words)) == words
    assert len(set(words)) == len(words) > 50
