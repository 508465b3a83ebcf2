"""The languages of captions: how a caption is split into words and joined again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")  # letters and digits; tri-colored and dog's stay one word
ELISION = re.compile(r"aujourd'hui|[^\W_]+'(?=[^\W_])|[^\W_]+(?:-[^\W_]+)*", re.IGNORECASE)  # l'|homme


@dataclass(frozen=True)
class Language:
    """How captions of a language are written.

    Args:
        name: of the language, in the language itself.
        function_words: those that a caption may contain more than once, separated by spaces. They have no word prior,
            and count less in the confidence.
        lowercase: captions become lower case. German keeps its capitals, because its nouns have them.
        elision: a word before an apostrophe is a word of its own: "l'homme" is "l'" and "homme".
    """

    name: str
    function_words: str
    lowercase: bool = True
    elision: bool = False

    def words(self, caption: str) -> list[str]:
        """The words of a caption, without punctuation; accents are in one piece with their letters (NFC)."""
        text = unicodedata.normalize("NFC", caption).replace("’", "'")
        return (ELISION if self.elision else WORD).findall(text.lower() if self.lowercase else text)

    def join(self, words: Iterable[str]) -> str:
        """The caption of some words: the inverse of `words`."""
        text = " ".join(words)
        return text.replace("' ", "'") if self.elision else text


LANGUAGES = {
    "en": Language(
        "English",
        """
            a an the some other another and or with without of in on at to for from by as is are be has have that which
            who where while it its he him his she her they their them one two three there up down out off over under
            near next behind between through along across around against above into onto toward towards away front side
            top back
        """,
    ),
    "de": Language(
        "Deutsch",
        """
            ein eine einen einem einer eines der die das den dem des und oder mit ohne von vom in im ins an am ans auf
            zu zum zur für aus bei beim nach über unter vor hinter neben zwischen durch um entlang gegen während ist
            sind wird werden hat haben er sie es sich ihr ihre ihren ihrem ihrer sein seine seinen seinem seiner als
            wie dass welche welcher welches wo eins zwei drei anderen andere anderer hoch herum entgegen
        """,
        lowercase=False,
    ),
    "fr": Language(
        "Français",
        """
            un une des le la les l' d' de du au aux et ou avec sans dans en sur sous à par pour vers chez entre contre
            devant derrière près côté est sont a ont qui que qu' où il elle ils elles se s' son sa ses leur leurs ce
            cette ces deux trois autre autres long travers
        """,
        elision=True,
    ),
    "cs": Language(
        "Čeština",
        """
            a i nebo s se si bez v ve na u k ke z ze do od po pod nad před za mezi přes při pro o podél kolem je jsou
            má mají který která které kteří on ona oni jeho její jejich ho ji jim co když jeden jedna dva dvě tři jiný
            jiná další druhý
        """,
    ),
}
