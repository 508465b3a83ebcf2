"""Captions as text and as ids: cleaning and the vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")  # letters and digits; tri-colored and dog's stay one word
SPECIAL = {"pad": "<pad>", "start": "<start>", "end": "<end>", "unknown": "<unk>"}


def clean(caption: str, lowercase: bool = True) -> list[str]:
    """Split a caption into words without punctuation. Articles and numbers stay.

    >>> clean("A tri-colored dog's 2 toys .")
    ['a', 'tri-colored', "dog's", '2', 'toys']
    """
    return WORD.findall(caption.lower() if lowercase else caption)


def sentence(caption: str) -> str:
    """A caption as a sentence.

    >>> sentence("a dog runs")
    'A dog runs.'
    """
    return f"{caption[:1].upper()}{caption[1:]}." if caption else ""


class Tokenizer:
    """Word ↔ id, with pad (always 0), start, end and unknown tokens.

    Args:
        word_index: word → id, special tokens included (pad may be left out).
        special: the spelling of ``pad``, ``start``, ``end`` and ``unknown``.
        lowercase: whether captions are lower-cased before they are looked up.

    Raises:
        ValueError: a special token is missing, or two words share an id.
    """

    def __init__(self, word_index: dict[str, int], special: dict[str, str] = SPECIAL, lowercase: bool = True):
        self.special = dict(special)
        self.lowercase = lowercase
        self.word_index = {self.special["pad"]: 0} | {str(word): int(i) for word, i in word_index.items()}
        missing = [name for name in SPECIAL if self.special.get(name) not in self.word_index]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)} token")
        self.index_word = {i: word for word, i in self.word_index.items()}
        if len(self.index_word) != len(self.word_index) or min(self.index_word) < 0:
            raise ValueError("two words of the vocabulary share an id, or an id is negative")
        self.pad, self.start, self.end, self.unknown = (self.word_index[self.special[name]] for name in SPECIAL)
        self._hidden = {self.pad, self.start, self.end, self.unknown}

    def __len__(self) -> int:
        """V, the number of ids: one more than the greatest, so that it sizes a softmax."""
        return max(self.index_word) + 1

    @classmethod
    def fit(cls, captions: Iterable[str], minimum_count: int = 5) -> Tokenizer:
        """Build the vocabulary from training captions.

        Words that occur at least ``minimum_count`` times get an id, the most frequent first. Ties are in alphabetical
        order, so that the ids do not depend on the order of the captions.
        """
        counts = Counter(word for caption in captions for word in clean(caption))
        words = sorted((w for w, n in counts.items() if n >= minimum_count), key=lambda w: (-counts[w], w))
        return cls({word: i for i, word in enumerate([*SPECIAL.values(), *words])})

    def encode(self, caption: str) -> list[int]:
        """Ids of a caption between the start and the end token; rare words become unknown."""
        words = clean(caption, self.lowercase)
        return [self.start, *(self.word_index.get(word, self.unknown) for word in words), self.end]

    def encode_batch(self, captions: Sequence[str], length: int) -> np.ndarray:
        """Ids of several captions, cut or padded to ``length``: int32 (N, length)."""
        batch = np.full((len(captions), length), self.pad, np.int32)
        for row, caption in zip(batch, captions, strict=True):
            ids = self.encode(caption)[:length]
            row[: len(ids)] = ids
        return batch

    def words(self, ids: Iterable[int]) -> list[str]:
        """Words up to the end token, without special tokens."""
        words = []
        for i in map(int, ids):
            if i == self.end:
                break
            if i not in self._hidden:
                words.append(self.index_word[i])
        return words

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of a row of ids. ``decode(encode(c))`` is ``c`` for a clean caption of known words."""
        return " ".join(self.words(ids))

    def to_dict(self) -> dict:
        """Builtins only; what ``tokenizer.pkl`` holds."""
        return {"word_index": dict(self.word_index), "special": dict(self.special), "lowercase": self.lowercase}

    @classmethod
    def from_dict(cls, data: dict) -> Tokenizer:
        """The inverse of `to_dict`. Raises ValueError when the dict is not one of those."""
        try:
            return cls(data["word_index"], data["special"], data["lowercase"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a tokenizer: {error!r}") from None
