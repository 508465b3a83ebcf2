"""Captions as ids: the vocabulary of a language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from captioning.languages import LANGUAGES

SPECIAL = {"pad": "<pad>", "start": "<start>", "end": "<end>", "unknown": "<unk>"}


def sentence(caption: str) -> str:
    """A caption as a sentence.

    >>> sentence("a dog runs")
    'A dog runs.'
    """
    return f"{caption[:1].upper()}{caption[1:]}." if caption else ""


class Tokenizer:
    """Word ↔ id, with pad (always 0), start, end and unknown tokens.

    Args:
        word_index: word → id, with the tokens of `SPECIAL`.
        language: a key of `LANGUAGES`. It decides how captions are split into words and joined.

    Raises:
        ValueError: a special token is missing, two words share an id, or the language is unknown.
    """

    def __init__(self, word_index: dict[str, int], language: str = "en"):
        if language not in LANGUAGES:
            raise ValueError(f"unknown language {language!r}; known: {', '.join(LANGUAGES)}")
        self.language = language
        self.word_index = {str(word): int(i) for word, i in word_index.items()}
        if missing := [name for name, token in SPECIAL.items() if token not in self.word_index]:
            raise ValueError(f"the vocabulary has no {', '.join(missing)} token")
        self.index_word = {i: word for word, i in self.word_index.items()}
        if len(self.index_word) != len(self.word_index) or min(self.index_word) < 0:
            raise ValueError("two words of the vocabulary share an id, or an id is negative")
        self.pad, self.start, self.end, self.unknown = map(self.word_index.__getitem__, SPECIAL.values())
        function_words = LANGUAGES[language].function_words.split()
        self.function_words = {self.word_index[word] for word in function_words if word in self.word_index}
        self._hidden = {self.pad, self.start, self.end, self.unknown}
        self._spelling = _most_frequent_spelling(sorted(self.word_index, key=self.word_index.__getitem__))

    def __len__(self) -> int:
        """V, the number of ids: one more than the greatest, so that it sizes a softmax."""
        return max(self.index_word) + 1

    @classmethod
    def fit(cls, captions: Iterable[str], minimum_count: int = 5, language: str = "en") -> Tokenizer:
        """Build the vocabulary from training captions.

        Words that occur at least ``minimum_count`` times get an id, the most frequent first. Ties are in alphabetical
        order, so that the ids do not depend on the order of the captions.
        """
        split = [LANGUAGES[language].words(caption) for caption in captions]
        inside = Counter(word for words in split if not _without_capitals(words) for word in words[1:])
        spelling = _most_frequent_spelling(word for word, _ in inside.most_common())
        counts = Counter(word for words in split for word in _spell(words, spelling))
        words = sorted((w for w, n in counts.items() if n >= minimum_count), key=lambda w: (-counts[w], w))
        return cls({word: i for i, word in enumerate([*SPECIAL.values(), *words])}, language)

    def encode(self, caption: str) -> list[int]:
        """Ids of a caption between the start and the end token; rare words become unknown."""
        words = _spell(LANGUAGES[self.language].words(caption), self._spelling)
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
        return self.join(self.words(ids))

    def join(self, words: Iterable[str]) -> str:
        """The caption of some words."""
        return LANGUAGES[self.language].join(words)

    def to_dict(self) -> dict:
        """Builtins only; what ``tokenizer.pkl`` holds."""
        return {"word_index": dict(self.word_index), "language": self.language}

    @classmethod
    def from_dict(cls, data: dict) -> Tokenizer:
        """The inverse of `to_dict`. Raises ValueError when the dict is not one of those."""
        try:
            return cls(data["word_index"], data.get("language", "en"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a tokenizer: {error!r}") from None


def tokenizers_to_dict(tokenizers: Mapping[str, Tokenizer]) -> dict:
    """What ``tokenizer.pkl`` holds: the first tokenizer, and the others under ``others``."""
    first, *others = (tokenizer.to_dict() for tokenizer in tokenizers.values())
    return {**first, "others": others}


def tokenizers_from_dict(data: dict) -> dict[str, Tokenizer]:
    """Language → tokenizer: the inverse of `tokenizers_to_dict`. Raises ValueError for another dict."""
    found = [Tokenizer.from_dict(data), *map(Tokenizer.from_dict, data.get("others", ()))]
    return {tokenizer.language: tokenizer for tokenizer in found}


def coco_image_id(name: str) -> str | int:
    """A photo's id in COCO results: the number in a name as COCO's photos have it, else the name without extension.

    >>> coco_image_id("val2014/COCO_val2014_000000000139.jpg"), coco_image_id("holiday/beach.jpg")
    (139, 'holiday/beach')
    """
    stem = name.removesuffix(PurePosixPath(name).suffix)
    number = re.search(r"(?:^|/)(?:COCO_[a-z]+\d{4}_)?(\d{12})$", stem)
    return int(number[1]) if number else stem


def _most_frequent_spelling(words: Iterable[str]) -> dict[str, str]:
    """Lower-case word → its first spelling in ``words``, which are sorted by frequency."""
    spelling: dict[str, str] = {}
    for word in words:
        spelling.setdefault(word.lower(), word)
    return spelling


def _spell(words: Sequence[str], spelling: dict[str, str]) -> list[str]:
    """Give words their usual spelling where the caption's own does not count: the first word, which has a capital in
    any case, and all words of a caption without other capitals ("Zwei hunde")."""
    last = len(words) if _without_capitals(words) else 1
    return [spelling.get(word.lower(), word) for word in words[:last]] + list(words[last:])


def _without_capitals(words: Sequence[str]) -> bool:
    """Whether no word but the first has a capital."""
    return all(word == word.lower() for word in words[1:])
