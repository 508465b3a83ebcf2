"""From photos to captions: the encoder, the beam search and the vocabulary in one object."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captioning import artifacts
from captioning.artifacts import REMEDY, ArtifactError
from captioning.descriptions import Segment, make_segments
from captioning.exported import ExportedSearch, Hypotheses, encoder_of, load_exported
from captioning.images import ImageError, open_photo, read_image, resize_image
from captioning.litert import make_batches, parallel_map
from captioning.shots import Progress, Shot
from captioning.text import Tokenizer, tokenizers_from_dict
from captioning.video import MAX_SECONDS, VideoError
from captioning.video_worker import read_shots_safely

DEFAULT_BEAM_WIDTH = 3
MAX_BEAM_WIDTH = 10
SEARCH_BATCH = 5  # photos that a core searches together, in a quarter less time per photo than alone

FUNCTION_WORD_WEIGHT = 0.25
"""In the mean probability that the confidence is made of. In English and German, content words say more about a caption
(docs/experiments.md)."""

NO_CAPTION = "the model found no caption"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Word:
    """A word of a caption, its probability, and its attention (rows, columns; sums to 1) or None."""

    text: str
    probability: float
    attention: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Caption:
    """A caption without full stop, in lower case except for German nouns.

    ``probability`` is that of all its words and of the end. ``confidence``, 0 to 1, estimates the share of the caption
    that people would say too (`captioning.training.evaluation.agreement`). ``alternatives`` are ranked and start with
    this caption; their own are empty. ``language`` is its code, such as "en". ``text`` and ``words`` are empty if the
    model found no caption.
    """

    text: str
    probability: float
    confidence: float
    words: list[Word] = field(repr=False)
    language: str = "en"
    alternatives: list[Caption] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Caption, probability and confidence, for JSON."""
        return {"caption": self.text, "probability": self.probability, "confidence": self.confidence}


class CaptionGenerator:
    """Captions photos. Make one with `load`.

    Several threads may use it, but not a process that was forked after its first use: load another one there.

    >>> generator = CaptionGenerator.load("artifacts")
    >>> generator.caption("photo.jpg").text
    'a dog is running through the grass'

    Args:
        encode: images (B, H, W, 3) uint8 of ``config["image_size"]`` pixels a side → features (B, R, D) float32.
        search: features, beam width and language → `Hypotheses`; an `ExportedSearch`.
        tokenizers: language → `Tokenizer`. The first language is the default.
        config: what ``config.pkl`` holds.

    Attributes:
        languages: the codes of the languages that the model has captions in, such as "en".
    """

    def __init__(
        self,
        encode: Callable[[np.ndarray], np.ndarray],
        search: ExportedSearch,
        tokenizers: Mapping[str, Tokenizer],
        config: dict[str, Any],
    ):
        self.encode, self._search, self.tokenizers, self.config = encode, search, tokenizers, config
        self.languages = list(tokenizers)

    @classmethod
    def load(cls, folder: str | Path = "artifacts") -> CaptionGenerator:
        """Load a trained model and check its files.

        A folder without exported models, only Keras ones, is converted first. That takes half a minute and needs
        TensorFlow.

        Raises:
            ArtifactError: a file is missing, incomplete, foreign or does not fit the others; the message names it.
        """
        folder = Path(folder)
        exported = artifacts.check_manifest(folder)
        path = folder / "config.pkl"
        try:
            config = artifacts.read_pickle(path)
            if missing := {"vocabulary_size", "image_size", "grid"} - set(config):
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
            path = folder / "tokenizer.pkl"
            tokenizers = tokenizers_from_dict(artifacts.read_pickle(path))
            if sum(map(len, tokenizers.values())) != config["vocabulary_size"]:
                raise ValueError("vocabulary and decoder have different sizes")
        except ArtifactError:
            raise
        except Exception as error:  # foreign content can fail in many ways
            raise ArtifactError(f"{path} cannot be used ({error!r}): {REMEDY}") from None
        if exported:
            encode, search = load_exported(folder, next(iter(tokenizers)), DEFAULT_BEAM_WIDTH)
        else:
            log.warning(
                "%s holds no exported models: converting the Keras models takes half a minute. "
                "To do it once: .venv/bin/python -m captioning.network.export %s", folder, folder,
            )  # fmt: skip
            try:
                from captioning.network.export import convert_folder  # imports TensorFlow
            except ModuleNotFoundError as error:
                raise ArtifactError(
                    f"{folder} holds no exported models, and {error.name} is not installed here. Where training is "
                    f"installed, run: .venv/bin/python -m captioning.network.export {folder}"
                ) from None
            encoder, searches, _ = convert_folder(folder)
            encode, search = encoder_of(encoder), ExportedSearch(searches)
        return cls(encode, search, tokenizers, config)

    def caption(
        self, photo: Any, beam_width: int = DEFAULT_BEAM_WIDTH, alternatives: int = 1, language: str | None = None
    ) -> Caption:
        """Caption one photo.

        It is read in this process, without limits on time and memory. For photos of strangers, see
        `captioning.image_workers`.

        Args:
            photo: path, bytes, binary file (read from its position), PIL image, or uint8 array: (H, W), (H, W, 3) in
                RGB order, or (H, W, 4).
            beam_width: candidate captions that the beam search keeps at each word, 1 to 10; 1 is greedy search.
            alternatives: captions to return, 1 to 10; if more than the beam width, the beam is as wide.
            language: one of ``languages``; None: the first of them.

        Raises:
            ImageError: the photo cannot be read.
            TypeError: ``photo`` is none of these.
            ValueError: beam width or alternatives are out of range, or the model does not have the language.
        """
        return self.caption_batch([photo], beam_width, alternatives, language)[0]

    def caption_batch(
        self,
        photos: Sequence,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        alternatives: int = 1,
        language: str | None = None,
    ) -> list[Caption]:
        """Caption several photos, on all cores. Arguments and errors as for `caption`.

        The first photo that cannot be read raises ImageError, whose note names it, and no caption is returned. To skip
        such photos, call `prepare` for each one and pass the arrays.
        """
        self._check(beam_width, alternatives, language)

        def prepare(number: int) -> np.ndarray:
            try:
                return self.prepare(photos[number])
            except ImageError as error:
                error.add_note(f"Photo {number} of {len(photos)}, counted from 0")
                raise

        def caption(numbers: Sequence[int]) -> list[Caption]:
            features = self.encode(np.stack([prepare(number) for number in numbers]))
            return self.search(features, beam_width, alternatives, language)

        return list(chain.from_iterable(parallel_map(caption, make_batches(range(len(photos)), SEARCH_BATCH))))

    def caption_video(
        self,
        path: str | Path,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        max_seconds: float = MAX_SECONDS,
        language: str | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> list[Segment]:
        """Caption a clip: one caption for each shot. Neighbours with the same caption become one segment.

        A process with limits on time and memory reads the clip.

        >>> [(s.start, s.end, s.caption.text) for s in generator.caption_video("clip.mp4")]
        [(0.0, 4.2, 'a dog is running through the grass'), (4.2, 9.0, 'a boy jumps into the pool')]

        Args:
            path: an MP4, MOV, WebM, animated GIF or animated WebP file.
            beam_width, language: as for `caption`.
            max_seconds: a longer clip is refused.
            on_progress: called while the clip is read.

        Raises:
            VideoError: the clip cannot be read or is too long.
            ValueError: beam width or ``max_seconds`` is out of range, or the model does not have the language.
            RuntimeError: no process can be started, or the one that reads the clip failed.
        """
        self._check(beam_width, 1, language)
        shots = []
        with _open_clip(path) as file:
            for part in read_shots_safely(file, self.config["image_size"], max_seconds):
                if isinstance(part, Shot):
                    shots.append(part)
                else:
                    on_progress(part)
        return make_segments(shots, self.caption_batch([shot.image for shot in shots], beam_width, language=language))

    def has_loaded(self, beam_width: int, language: str) -> bool:
        """Whether the search for these options, as for `caption`, is in memory. Else its first use takes longer."""
        return self._search.has_loaded(language, beam_width)

    def prepare(self, photo: Any) -> np.ndarray:
        """Read a photo and resize it to the encoder's size: uint8 (H, W, 3)."""
        size = (self.config["image_size"], self.config["image_size"])
        image = read_image(photo) if isinstance(photo, np.ndarray) else open_photo(photo, min_size=size)
        return resize_image(image, size)

    def search(
        self,
        features: np.ndarray,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        alternatives: int = 1,
        language: str | None = None,
    ) -> list[Caption]:
        """Captions for features (B, R, D) float.

        Raises:
            ValueError: beam width or alternatives out of range, or a language that the model does not have.
        """
        language = self._check(beam_width, alternatives, language)
        found = self._search(np.asarray(features, np.float32), max(beam_width, alternatives), language)
        results = []
        for b in range(len(features)):
            ranked = [self._caption(found, b, k, language) for k in range(min(alternatives, found.tokens.shape[1]))]
            results.append(dataclasses.replace(ranked[0], alternatives=ranked))
        return results

    def _check(self, beam_width: int, alternatives: int, language: str | None) -> str:
        """The language; ValueError as for `search`."""
        language = language or self.languages[0]
        if language not in self.languages:
            raise ValueError(f"the model has no captions in {language!r}, only in: {', '.join(self.languages)}")
        if not 1 <= alternatives <= MAX_BEAM_WIDTH or not 1 <= beam_width <= MAX_BEAM_WIDTH:
            raise ValueError(f"beam width and alternatives must be between 1 and {MAX_BEAM_WIDTH}")
        return language

    def _caption(self, found: Hypotheses, b: int, k: int, language: str) -> Caption:
        tokenizer = self.tokenizers[language]
        tokens, log_probabilities = found.tokens[b, k], found.log_probabilities[b, k]
        texts = tokenizer.words(tokens)
        maps = (
            [None] * len(texts) if found.attention is None else found.attention[b, k].reshape(-1, *self.config["grid"])
        )
        words = [  # without those after the end token
            Word(text, float(np.exp(log_p)), grid)
            for text, log_p, grid in zip(texts, log_probabilities, maps, strict=False)
        ]
        slope, offset = self.config.get("confidence", {}).get(language, (1.0, 0.0))
        confidence = 0.0  # of a caption without words
        if words:
            weights = [FUNCTION_WORD_WEIGHT if i in tokenizer.function_words else 1.0 for i in tokens[: len(words)]]
            mean = np.exp(np.average(log_probabilities[: len(words)], weights=weights))
            confidence = float(np.clip(slope * mean + offset, 0.0, 1.0))
        probability = float(np.exp(log_probabilities.sum()))
        return Caption(tokenizer.join(texts), probability, confidence, words, language)


def _open_clip(path: str | Path) -> BinaryIO:
    try:
        file = open(path, "rb")  # noqa: SIM115 -- the caller closes it
    except OSError as error:
        raise VideoError(f"The file cannot be opened ({error.strerror}). Check its path and permissions.") from None
    if not file.seekable():
        file.close()
        pipe = "This is a pipe. Save the clip to a file first."  # the page never shows it: not to be translated
        raise VideoError(pipe)
    return file
