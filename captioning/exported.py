"""The exported models of an artifacts folder, run by LiteRT: the encoder and the searches."""

from __future__ import annotations

import functools
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from captioning.artifacts import REMEDY, ArtifactError
from captioning.litert import Model

MODELS_IN_MEMORY = 12  # searches, each for a language and a beam width, of 9 MB or more


class Hypotheses(NamedTuple):
    """The result of a beam search: K hypotheses per image, the best first.

    tokens: (B, K, T) int32, from the first word to the end token, then padding.
    log_probabilities: (B, K, T) float32 of each token, 0 for padding.
    attention: (B, K, T, R) float32, or None for a decoder without attention.
    scores: (B, K) float32, the length-normalised log probability.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    attention: np.ndarray | None
    scores: np.ndarray


def encoder_of(source: Path | bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The function of an exported encoder: images (B, H, W, 3) uint8 → features (B, R, D) float32.

    Args:
        source: the path or the content of ``encoder.tflite``.
    """
    model = Model({1: source})
    return lambda images: model.run(images)[0]


class ExportedSearch:
    """The function of exported searches: features (B, R, D) float32, beam width and language → `Hypotheses`.

    Args:
        load: language and beam width → exported searches by batch size. The models used last stay in memory.
    """

    def __init__(self, load: Callable[[str, int], Mapping[int, bytes]]):
        self._load = load
        self._locks = defaultdict[tuple[str, int], threading.Lock](threading.Lock)  # so that a model is loaded once
        self._models: dict[tuple[str, int], Model] = {}  # the one used last comes last

    def has_loaded(self, language: str, beam_width: int) -> bool:
        return (language, beam_width) in self._models

    def model(self, language: str, beam_width: int) -> Model:
        """The model for a language and a beam width, loaded at its first use."""
        which = language, beam_width
        with self._locks[which]:
            model = self._models.get(which) or Model(self._load(*which))
            self._models.pop(which, None)
            self._models[which] = model
        for oldest in list(self._models)[:-MODELS_IN_MEMORY]:
            self._models.pop(oldest, None)
        return model

    def __call__(self, features: np.ndarray, beam_width: int, language: str) -> Hypotheses:
        tokens, log_probabilities, scores, *attention = self.model(language, beam_width).run(features)
        return Hypotheses(tokens, log_probabilities, attention[0] if attention else None, scores)


def load_exported(
    folder: Path, language: str, beam_width: int
) -> tuple[Callable[[np.ndarray], np.ndarray], ExportedSearch]:
    """The functions of ``encoder.tflite`` and ``search.tar.xz``.

    The search for ``language`` and ``beam_width`` is read at once, the others at their first use.

    Raises:
        ArtifactError: a file cannot be used; the message names it.
    """
    path = folder / "encoder.tflite"
    try:
        encode = encoder_of(path)
        path = folder / "search.tar.xz"
        search = ExportedSearch(functools.partial(_read_searches, path))
        search.model(language, beam_width)
    except Exception as error:  # LiteRT and tarfile raise several kinds
        raise ArtifactError(f"{path} cannot be used ({error}): {REMEDY}") from None
    return encode, search


def _read_searches(path: Path, language: str, beam_width: int) -> dict[int, bytes]:
    """The searches for a language and a beam width, by batch size. They follow one another in the archive."""
    found: dict[int, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            search, _, batch_size = member.name.removesuffix(".tflite").rpartition("_batch")
            if search == f"{language}_beam{beam_width}":
                found[int(batch_size)] = cast(IO[bytes], archive.extractfile(member)).read()
            elif found:
                return found
    if not found:
        raise ValueError(f"this model was not exported for beam width {beam_width} in {language!r}")
    return found
