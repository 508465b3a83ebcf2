"""Scores and tables for captions.

BLEU comes from NLTK and from the COCO scorers (``pycocoevalcap``), CIDEr, ROUGE-L and METEOR from the
COCO scorers. METEOR is a Java program. Where it cannot run, it is skipped with a warning.
"""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
from nltk.tokenize import TreebankWordTokenizer
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

from captioning.languages import LANGUAGES
from captioning.training.objects import hallucination

COLUMNS = [
    *(f"BLEU-{n}" for n in range(1, 5)), *(f"NLTK BLEU-{n}" for n in range(1, 5)),
    "CIDEr", "METEOR", "ROUGE-L", "CHAIR-s", "CHAIR-i", "repeats", "distinct", "mean length",
]  # fmt: skip
TREEBANK = TreebankWordTokenizer()
TYPOGRAPHY = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "--", "—": "--"})
SENTENCE_END = re.compile(r"(?<=\w\w)(?<!\b[mdsj]r|\bms|\bst|\bmt|\bvs|\bft)(?<!\bmrs)\.(?=[\"')]*\s)", re.IGNORECASE)
OPENING_QUOTE = re.compile(r"(?<!\S)'(?=\w\w)(?!(?:s|re|ll|ve|tis|twas|em)\b)", re.IGNORECASE)


def tokenize(caption: str, language: str = "en") -> list[str]:
    """Split a caption into the tokens that the COCO scorers count: lower case, without punctuation.

    For English, this is COCO's PTBTokenizer (Java) in Python: NLTK's Treebank tokenizer and COCO's list of punctuation,
    and two rules of Stanford's that NLTK lacks: a full stop inside the text ends a sentence, a single quote may open a
    quotation. As in COCO's, brackets stay, as ``-lrb-``. Of Flickr8k's 35,000 training and development captions it
    splits 8 differently. For other languages, the tokens are the words of `captioning.languages`.

    >>> tokenize("A tri-colored dog's toy , isn't it ?")
    ['a', 'tri-colored', 'dog', "'s", 'toy', 'is', "n't", 'it']
    """
    if language != "en":
        return [word.lower() for word in LANGUAGES[language].words(caption)]
    text = OPENING_QUOTE.sub("` ", SENTENCE_END.sub(" .", caption.translate(TYPOGRAPHY)))
    tokens = (token.lower() for token in TREEBANK.tokenize(text, convert_parentheses=True))
    return [token for token in tokens if token not in PUNCTUATIONS]


@lru_cache(maxsize=2**17)  # the references of 25,000 images, which are needed every epoch
def tokenized(caption: str, language: str = "en") -> str:
    return " ".join(tokenize(caption, language))


def reference_texts(references: Sequence[str] | None, language: str = "en") -> list[str]:
    """References, tokenized, except those without a word (".")."""
    return [text for reference in references or [] if (text := tokenized(reference, language))]


def score_captions(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], language: str = "en"
) -> dict[str, float]:
    """Score one caption per image against all reference captions of that image.

    Args:
        captions: image name → caption.
        references: image name → reference captions, for the same images.
        language: of both, a key of `LANGUAGES`.

    Returns:
        What each key of `COLUMNS` holds; every score is a percentage, and larger is better unless stated otherwise.
        METEOR and CHAIR are for English only.

        - ``BLEU-1`` … ``BLEU-4``: n-gram precision with brevity penalty over the corpus (Papineni et al.,
          2002, "BLEU: a method for automatic evaluation of machine translation"), COCO scorer.
        - ``NLTK BLEU-1`` … ``NLTK BLEU-4``: the same by NLTK, with smoothing method 1 (Chen and Cherry, 2014,
          "A systematic comparison of smoothing techniques for sentence-level BLEU"): an n-gram order without
          any match counts as 0.1 matches, so small corpora do not drop to zero.
        - ``CIDEr``: tf-idf weighted n-gram similarity (Vedantam et al., 2015, "CIDEr: consensus-based image
          description evaluation"), in the CIDEr-D form of the COCO scorer. Its document frequencies come
          from ``references``, so it depends on the set of images; for a single image it is 0.
        - ``METEOR``: aligned words, stems, synonyms and paraphrases (Denkowski and Lavie, 2014, "Meteor
          universal"). Absent, with a warning, where Java does not run.
        - ``ROUGE-L``: longest common subsequence (Lin, 2004, "ROUGE: a package for automatic evaluation of
          summaries").
        - ``CHAIR-s``, ``CHAIR-i``: objects that no reference mentions, see `captioning.training.objects.hallucination`;
          smaller is better. ``repeats``: percentage of captions with a word twice in a row or a pair of words twice.
        - ``distinct``: number of different captions. ``mean length``: tokens per caption.

    Raises:
        ValueError: an image has no caption or no references; the message names it.
    """
    hypotheses, truths = _pairs(captions, references, language)
    words = [caption.split() for [caption] in hypotheses.values()]
    weights = [(1 / n,) * n for n in range(1, 5)]
    truth_words = [[reference.split() for reference in truths[name]] for name in hypotheses]
    nltk_bleu = corpus_bleu(truth_words, words, weights, SmoothingFunction().method1)
    bleu, _ = Bleu(4).compute_score(truths, hypotheses, verbose=0)
    scores = {f"BLEU-{n}": 100 * score for n, score in enumerate(bleu, start=1)}
    scores |= {f"NLTK BLEU-{n}": 100 * score for n, score in enumerate(nltk_bleu, start=1)}
    scores["CIDEr"] = 100 * Cider().compute_score(truths, hypotheses)[0]
    if language == "en":
        try:
            scores["METEOR"] = 100 * _meteor(truths, hypotheses)
        except (OSError, ValueError) as error:  # no Java, or a Java that does not start
            logging.getLogger(__name__).debug("METEOR: %s", error)
            warnings.warn("METEOR is skipped: it needs Java, which does not run here", stacklevel=2)
    scores["ROUGE-L"] = 100 * Rouge().compute_score(truths, hypotheses)[0]
    if language == "en":
        scores |= hallucination({name: text for name, [text] in hypotheses.items()}, truths)
    scores["repeats"] = 100 * sum(map(repeats, words)) / len(words)
    scores["distinct"] = len(set(map(tuple, words)))
    scores["mean length"] = sum(map(len, words)) / len(words)
    return {name: float(score) for name, score in scores.items()}


def repeats(words: Sequence[str]) -> bool:
    """Whether a caption contains a word twice in a row, or a pair of words in the same order twice."""
    pairs = list(pairwise(words))
    return len(set(pairs)) < len(pairs) or any(a == b for a, b in pairs)


def agreement(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    training: Mapping[str, Sequence[str]],
    language: str = "en",
) -> dict[str, float]:
    """How much of each caption people also wrote: image name → 0 to 1.

    This is the share of its words that occur in a reference caption. Words are weighted by their inverse document
    frequency in ``training`` (image name → captions).
    """
    known = (" ".join(reference_texts(texts, language)) for texts in training.values())
    counts = Counter(word for text in known for word in set(text.split()))
    hypotheses, truths = _pairs(captions, references, language)
    result = {}
    for name, [caption] in hypotheses.items():
        words, written = caption.split(), set(" ".join(truths[name]).split())
        weights = [math.log((len(training) + 1) / max(counts[word], 1)) for word in words]
        agreed = sum(weight for word, weight in zip(words, weights, strict=True) if word in written)
        result[name] = agreed / (sum(weights) or 1)
    return result


def calibration_error(confidence: Sequence[float], truth: Sequence[float]) -> float:
    """Expected calibration error: mean distance of confidence and truth over bins of equally many captions
    (Nixon et al., 2019, "Measuring calibration in deep learning", arXiv:1904.01685)."""
    return sum(len(c) * abs(c.mean() - t.mean()) for c, t in calibration_bins(confidence, truth)) / len(truth)


def calibration_bins(confidence: Sequence[float], truth: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Captions in order of confidence, cut into ten bins of equal size: (confidence, truth) of each bin."""
    order = np.argsort(confidence)
    return [(np.asarray(confidence)[b], np.asarray(truth)[b]) for b in np.array_split(order, 10) if len(b)]


def cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]], language: str = "en") -> float:
    """CIDEr alone (see `score_captions`), in percent, to choose the best epoch. It takes a second for 1,000 images."""
    hypotheses, truths = _pairs(captions, references, language)
    return 100 * float(Cider().compute_score(truths, hypotheses)[0])


def per_image_cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr of each image, in percent, to find the best and the worst captions; their mean is `cider`."""
    hypotheses, truths = _pairs(captions, references)
    _, scores = Cider().compute_score(truths, hypotheses)
    return {name: 100 * float(score) for name, score in zip(hypotheses, scores, strict=True)}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean over images (percentile bootstrap: Efron, 1979, Annals of Statistics 7:
    1–26)."""
    random, array = np.random.default_rng(0), np.asarray(values)
    means = [random.choice(array, len(array)).mean() for _ in range(2000)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def score_table(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Scores of several settings ("greedy", "beam 3", …), one per row, two decimals. A missing METEOR is "skipped"."""
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=COLUMNS).round(2)
    table["distinct"] = table["distinct"].astype("Int64")
    if table["METEOR"].isna().any():
        table["METEOR"] = table["METEOR"].astype(object).where(table["METEOR"].notna(), "skipped")
    return table


def _pairs(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], language: str = "en"
) -> tuple[dict, dict]:
    """Captions and references, tokenized, as the COCO scorers want them: image name → list of strings."""
    for name in references:
        if captions.get(name) is None:
            raise ValueError(f"{name} has no caption")
    truths = {name: reference_texts(references.get(name), language) for name in captions}
    for name, texts in truths.items():
        if not texts:
            raise ValueError(f"{name} has no reference captions")
    if not captions:
        raise ValueError("there are no captions to score")
    return {name: [tokenized(caption, language)] for name, caption in captions.items()}, truths


class _Meteor(meteor.Meteor):
    """COCO's METEOR with a Java process that reads UTF-8 and writes decimal points in every locale, and that
    ends with its ``with`` block."""

    def __init__(self):
        options = ["-Xmx2G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US"]
        self.lock = threading.Lock()
        self.meteor_p = subprocess.Popen(
            ["java", *options, "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=os.path.dirname(os.path.abspath(meteor.__file__)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.meteor_p.kill()
        self.meteor_p.communicate()

    def __del__(self):
        pass  # __exit__ has done it


def _meteor(truths: dict[str, list[str]], hypotheses: dict[str, list[str]]) -> float:
    def safe(texts: dict) -> dict:  # "|||" separates captions in METEOR's protocol
        return {name: [text.replace("|||", "") for text in captions] for name, captions in texts.items()}

    with _Meteor() as scorer:
        return scorer.compute_score(safe(truths), safe(hypotheses))[0]
