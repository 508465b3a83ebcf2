"""The reward of self-critical training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import precook

from captioning.training.evaluation import reference_texts, tokenized


class CaptionReward:
    """A fast reward for self-critical training: CIDEr of sampled captions, and BLEU if wanted.

    CIDEr is that of the COCO scorer for one image (not × 100; a human caption gets about 0.8), with the document
    frequencies of the training references, counted once.
    Rennie et al., 2017, "Self-critical sequence training for image captioning".

    Args:
        references: image name → reference captions, of the training split.
        end_token: count the end of a caption as a word, in the references too. Without it, self-critical
            training produces captions without an ending ("a man with a"), because an ending earns nothing.
        brevity_penalty: multiply by BLEU's brevity penalty, against the mean length of the references minus one.
            CIDEr alone makes captions two words shorter than people's.
        bleu: weight of the sentence's BLEU-1 + … + BLEU-4 (COCO scorer), which counts all words alike. CIDEr favours
            rare ones.
        language: of the captions, a key of `captioning.languages.LANGUAGES`.

    >>> reward = CaptionReward({"dog.jpg": ["a dog runs"], "cat.jpg": ["a cat sleeps"]})
    >>> reward.reward(["dog.jpg", "dog.jpg"], ["a dog", "a cat"]).round(2)
    array([3.49, 0.  ], dtype=float32)
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        end_token: bool = False,
        brevity_penalty: bool = False,
        bleu: float = 0.0,
        language: str = "en",
    ):
        self._language = language
        self._end, self._brevity_penalty, self._bleu = " <end>" if end_token else "", brevity_penalty, bleu
        self._texts = {
            name: [t + self._end for t in reference_texts(texts, language)] for name, texts in references.items()
        }
        frequency: Counter[tuple] = Counter()
        for own in self._texts.values():
            frequency.update(set().union(*map(precook, own)))
        self._unseen = math.log(max(len(references), 1))  # idf of an n-gram of one image, or of none
        self._idf = {ngram: self._unseen - math.log(count) for ngram, count in frequency.items() if count > 1}

    def reward(
        self, image_names: Sequence[str], captions: Sequence[str], ended: Sequence[bool] | None = None
    ) -> np.ndarray:
        """Rewards (N,) float32 of N captions, one for each pair of image and caption. An image may occur several times.

        Args:
            ended: whether a caption is complete. One that was cut does not count as having an end. None: all are.

        Raises:
            ValueError: an image has no references; the message names it.
        """
        references = {name: self._count_references(name) for name in set(image_names)}
        ended = [True] * len(captions) if ended is None else ended
        texts = [
            tokenized(caption, self._language) + (self._end if end else "")
            for caption, end in zip(captions, ended, strict=True)
        ]
        pairs = list(zip(image_names, texts, strict=True))
        rewards = np.array([self._score(references[name], text) for name, text in pairs], np.float32)
        if self._bleu:
            scorer = BleuScorer(n=4)
            for name, text in pairs:
                scorer += (text, self._texts[name])
            _, bleu = scorer.compute_score(option="closest", verbose=0)
            rewards += self._bleu * np.sum(bleu, axis=0, dtype="float32")
        return rewards

    def _count_references(self, image_name: str) -> list[tuple[dict[tuple, int], list[float], int]]:
        """The n-grams of each reference and what `_norms` returns. Those of all images would fill gigabytes."""
        if not self._texts.get(image_name):
            raise ValueError(f"{image_name} has no reference captions")
        return [(counts, *self._norms(counts)) for counts in map(precook, self._texts[image_name])]

    def _norms(self, counts: dict[tuple, int]) -> tuple[list[float], int]:
        """Lengths of the tf-idf vectors, one per n-gram order, and the caption's length in bigrams, as in COCO's."""
        squares = [0.0] * 4
        for ngram, tf in counts.items():
            squares[len(ngram) - 1] += (tf * self._idf.get(ngram, self._unseen)) ** 2
        return [math.sqrt(square) for square in squares], sum(tf for ngram, tf in counts.items() if len(ngram) == 2)

    def _score(self, references: list[tuple[dict[tuple, int], list[float], int]], text: str) -> float:
        counts = precook(text)
        norms, length = self._norms(counts)
        weighted = [(ngram, tf, self._idf.get(ngram, self._unseen) ** 2) for ngram, tf in counts.items()]
        total = 0.0
        for reference, reference_norms, reference_length in references:
            products = [0.0] * 4
            for ngram, tf, squared_idf in weighted:
                if ngram in reference:
                    products[len(ngram) - 1] += min(tf, reference[ngram]) * reference[ngram] * squared_idf
            penalty = math.exp(-((length - reference_length) ** 2) / (2 * 6.0**2))
            total += penalty * sum(p / (a * b) for p, a, b in zip(products, norms, reference_norms, strict=True) if p)
        if self._brevity_penalty:
            expected = sum(reference_length for *_, reference_length in references) / len(references)
            total *= math.exp(min(0.0, 1 - expected / (length + 1)))
        return 10 * total / 4 / len(references)
