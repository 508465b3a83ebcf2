"""Dynamic batching: a bounded queue collects the photos of many threads and captions them in batches on all cores.

queue = CaptionQueue(generator)
queue.warm_up()
queue.submit(generator.prepare(photo)).result().text  # from any thread
queue.close()
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from captioning.cores import CPU_COUNT
from captioning.generator import DEFAULT_BEAM_WIDTH, SEARCH_BATCH, Caption, CaptionGenerator
from captioning.images import Photo
from captioning.litert import on_one_core

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue is full or closed. Try again later."""


@dataclass(eq=False)
class _Request:
    image: np.ndarray | None  # None while the photo is being read
    gone: Callable[[], bool]
    group: object
    options: dict[str, Any]
    answer: Future[Caption] = field(default_factory=Future)


class CaptionQueue:
    """Captions the photos of many threads in batches, with the same captions as one by one.

    A photo that arrives alone is computed by all cores together. If several wait, each core that is free takes an equal
    share of them as a batch, at most `SEARCH_BATCH`. All photos of a batch have the same options. If several groups
    wait, a batch has at most one photo of each: a request with many photos does not delay one with a single photo.
    After `warm_up`, a request with the queue's own options does not wait for the model to load, and with two cores or
    more not for that of other options either. An exception fails its own batch only.

    Args:
        beam_width: as for `CaptionGenerator.caption`. A caption has as many alternatives.
        max_waiting: photos that may wait, with those that are being read; one more is `QueueFull`.
        on_batch: called with the size of each batch and the seconds it took.

    Attributes:
        failed: batches that failed.
        failing: whether the latest one did.
    """

    def __init__(
        self,
        generator: CaptionGenerator,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        max_waiting: int = 64,
        on_batch: Callable[[int, float], None] | None = None,
    ):
        if max_waiting < 1:
            raise ValueError("the queue needs room for one photo at least")
        self.generator, self.on_batch = generator, on_batch or (lambda size, seconds: None)
        self.options: dict[str, Any] = {"beam_width": beam_width, "language": generator.languages[0]}
        self.max_waiting = max_waiting
        self.failed, self.failing = 0, False
        self._waiting: list[_Request] = []
        self._coming = 0  # photos that are being read and have a place among those that wait
        self._running = 0  # batches
        self._loading: list[dict[str, Any]] = []  # options whose model is being loaded
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="captions", daemon=True)
        self._worker.start()

    def __len__(self) -> int:
        """Photos that are being read or wait, those in running batches not counted."""
        return len(self._waiting) + self._coming

    @property
    def alive(self) -> bool:
        return self._worker.is_alive()

    def warm_up(self) -> None:
        """Run the model on all cores together and on each core alone, before the first photo is submitted."""
        side = self.generator.config["image_size"]
        blank = np.zeros((side, side, 3), np.uint8)
        if CPU_COUNT == 1:
            self.submit(blank).result()  # each thread has a model of its own, so in the one that answers
            return
        for photos in (1, CPU_COUNT):
            self._caption([blank] * photos, self.options)

    def submit(
        self,
        image: np.ndarray,
        gone: Callable[[], bool] = lambda: False,
        group: object = None,
        beam_width: int | None = None,
        language: str | None = None,
    ) -> Future[Caption]:
        """Queue a photo that `CaptionGenerator.prepare` made; the future gives its `Caption`.

        Args:
            beam_width, language: where one is missing or None, it is the queue's.
            group: what the photo belongs to, such as a request with several photos (hashable); by default it is alone.
            gone: whether nobody waits for the answer any more. Such a photo, and one whose future was cancelled, is
                dropped before it costs a batch.

        Raises:
            QueueFull: at once.
            ValueError: the model does not have the language, such as after a reload.
        """
        request = self._request(image, gone, group, beam_width, language)
        with self._changed:
            self._check_room()
            self._waiting.append(request)
            self._changed.notify_all()
        return request.answer

    def submit_unread(
        self,
        read: Callable[[], Future[Photo]],
        gone: Callable[[], bool] = lambda: False,
        group: object = None,
        beam_width: int | None = None,
        language: str | None = None,
    ) -> tuple[Future[Photo], Future[Caption]]:
        """As `submit`, for a photo that is not read yet. It has its place in the queue before ``read`` is called.

        Returns the future of ``read`` and that of the caption. If reading fails, both have the same exception; if it is
        cancelled, both are.
        """
        request = self._request(None, gone, group, beam_width, language)
        with self._changed:
            self._check_room()
            self._coming += 1
        try:
            photo = read()
        except BaseException:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()
            raise
        photo.add_done_callback(partial(self._arrive, request))
        return photo, request.answer

    def _request(
        self, image: np.ndarray | None, gone: Callable, group: object, beam_width: int | None, language: str | None
    ) -> _Request:
        if language and language not in self.generator.languages:
            raise ValueError(f"the model has no captions in {language!r}")
        options = {
            "beam_width": self.options["beam_width"] if beam_width is None else beam_width,
            "language": language or self.options["language"],
        }
        return _Request(image, gone, object() if group is None else group, options)

    def _check_room(self) -> None:
        if self._closed or len(self) >= self.max_waiting:
            raise QueueFull

    def _arrive(self, request: _Request, photo: Future[Photo]) -> None:
        """Queue a photo that has been read."""
        error = None if photo.cancelled() else photo.exception()
        with self._changed:
            self._coming -= 1
            if not (photo.cancelled() or error):
                request.image = photo.result().image
                self._waiting.append(request)
            self._changed.notify_all()
        if photo.cancelled():
            request.answer.cancel()
        elif error and request.answer.set_running_or_notify_cancel():
            request.answer.set_exception(error)

    def close(self, timeout: float | None = None) -> None:
        """Refuse new photos, finish those that wait, stop; after ``timeout`` seconds in any case."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join(timeout)

    def _work(self) -> None:
        while batch := self._next_batch():
            alone = len(batch) == 1 and self._running == 1 and not self._waiting
            is_loaded = self.generator.has_loaded(**batch[0].options)
            if CPU_COUNT == 1 or (alone and is_loaded):
                self._answer(batch)
                continue
            if not is_loaded:
                self._loading.append(batch[0].options)
            on_one_core(self._answer, batch)

    def _next_batch(self) -> list[_Request]:
        """Wait for photos and a free core; an empty list when the queue is closed and all is done."""
        with self._changed:
            while True:
                self._changed.wait_for(self._has_work)
                self._waiting = [request for request in self._waiting if not _drop_if_abandoned(request)]
                batch = [request for request in self._take() if request.answer.set_running_or_notify_cancel()]
                if batch:
                    self._running += 1
                    return batch
                if self._closed and not len(self) and not self._running:
                    return []

    def _has_work(self) -> bool:
        """Whether a batch can be taken, or the queue has come to its end."""
        if self._running < CPU_COUNT and any(map(self._is_ready, self._waiting)):
            return True
        return self._closed and not self._running and not len(self)

    def _is_ready(self, request: _Request) -> bool:
        """Whether its model is in memory or may be loaded now. Loading leaves a core for the others."""
        if self.generator.has_loaded(**request.options):
            return True
        return request.options not in self._loading and len(self._loading) < max(1, CPU_COUNT - 1)

    def _take(self) -> list[_Request]:
        """Take a batch out of the waiting photos; groups that got their turn go to the end of the queue."""
        ready = list(filter(self._is_ready, self._waiting))
        if not ready:
            return []
        candidates = [request for request in ready if request.options == ready[0].options]
        first_of_group = {request.group: request for request in reversed(candidates)}
        if len(first_of_group) > 1:
            candidates = [request for request in candidates if request is first_of_group[request.group]]
        share = -(-len(candidates) // (CPU_COUNT - self._running))  # of each free core
        batch = candidates[: min(share, SEARCH_BATCH)]
        served = {request.group for request in batch}
        rest = [request for request in self._waiting if request not in batch]
        self._waiting = sorted(rest, key=lambda request: request.group in served)
        return batch

    def _caption(self, images: list, options: dict[str, Any]) -> list[Caption]:
        return self.generator.caption_batch(images, alternatives=options["beam_width"], **options)

    def _answer(self, batch: list[_Request]) -> None:
        start = time.perf_counter()
        try:
            images = [request.image for request in batch]
            captions = self._caption(images, batch[0].options)
            self.failing = False
            for request, caption in zip(batch, captions, strict=True):
                request.answer.set_result(caption)
        except BaseException as error:  # the next batch may succeed
            log.exception("A batch of %d photos failed", len(batch))
            with self._changed:
                self.failed, self.failing = self.failed + 1, True
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(error)
        finally:
            with self._changed:
                self._running -= 1
                if batch[0].options in self._loading:
                    self._loading.remove(batch[0].options)
                self._changed.notify_all()
            self.on_batch(len(batch), time.perf_counter() - start)


def _drop_if_abandoned(request: _Request) -> bool:
    """Cancel a photo that nobody waits for; whether it is cancelled."""
    return request.answer.cancelled() or (request.gone() and request.answer.cancel())
