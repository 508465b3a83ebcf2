"""Clips that are being captioned, each by a thread of its own. A client asks for the result until it is there."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from flask import Flask

from captioning.batching import QueueFull
from captioning.descriptions import Segment, make_segments
from captioning.generator import Caption
from captioning.shots import Shot
from captioning.video import VideoError
from captioning.video_worker import read_shots_safely

UNASKED = 120.0  # seconds after which a job that nobody asks about ends
SWEEP = 5.0  # seconds between two looks whether a result is still wanted
AHEAD = 8  # shots of a job that wait for their captions, so that photos find room in the queue

log = logging.getLogger(__name__)


class TooManyJobs(Exception):
    """Try again later."""


class Abandoned(Exception):
    """Nobody waits for the job any more."""


@dataclass(eq=False)
class Job:
    """A clip. `progress`, 0 to 1, is None while the length of the clip is unknown.

    `beam_width` and `language` are as for `CaptionQueue.submit`.
    """

    beam_width: int | None
    language: str | None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    progress: float | None = 0.0
    segments: list[Segment] | None = None  # when it is done
    error: Exception | None = None  # when it has failed
    asked: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    @property
    def running(self) -> bool:
        return self.segments is None and self.error is None

    @property
    def abandoned(self) -> bool:
        return self.cancelled or time.monotonic() - self.asked > UNASKED


class VideoJobs:
    """The jobs of an app. At most ``VIDEO_JOBS`` run at a time.

    A job ends when its client cancels it or has not asked about it for `UNASKED` seconds, and when the service stops.
    Then its file is closed, and with that removed, because it has no name.
    """

    def __init__(self, app: Flask):
        self._app = app
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._sweeping = False  # whether a thread does

    def start(self, file: BinaryIO, beam_width: int | None, language: str | None) -> Job:
        """Captions a clip, and closes its file at the end in any case.

        Raises:
            TooManyJobs: at once.
        """
        job = Job(beam_width, language)
        with self._lock:
            self._forget()
            if sum(job.running for job in self._jobs.values()) >= self._app.config["VIDEO_JOBS"]:
                file.close()
                raise TooManyJobs
            self._jobs[job.id] = job
        try:
            threading.Thread(target=self._run, args=(job, file), name="video", daemon=True).start()
        except RuntimeError as error:  # the system allows no more threads
            with self._lock:
                del self._jobs[job.id]
            file.close()
            raise TooManyJobs from error
        return job

    def get(self, id: str) -> Job | None:
        """The job, which this keeps alive."""
        with self._lock:
            self._forget()
            if job := self._jobs.get(id):
                job.asked = time.monotonic()
            return job

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        """A cancelled job whose process is still being ended counts as running."""
        self._jobs = {id: job for id, job in self._jobs.items() if job.running or not job.abandoned}

    def _sweep(self) -> None:
        """Forget results until none is left. One thread does this."""
        with self._lock:
            if self._sweeping:
                return
            self._sweeping = True
        while True:
            time.sleep(SWEEP)
            with self._lock:
                self._forget()
                if not self._jobs:
                    self._sweeping = False
                    return

    def _run(self, job: Job, file: BinaryIO) -> None:
        """Caption a clip, then forget the results that nobody asks for."""
        try:
            with file:
                job.segments = self._caption(job, file)
        except VideoError as error:
            self._app.extensions["metrics"].errors.labels(error.kind).inc()
            job.error = error
        except (Abandoned, CancelledError) as error:
            job.cancelled, job.error = True, error
        except Exception as error:
            log.exception("A clip failed")
            self._app.extensions["metrics"].errors.labels("clip failed").inc()
            job.error = error
        self._sweep()

    def _caption(self, job: Job, file: BinaryIO) -> list[Segment]:
        extensions, config = self._app.extensions, self._app.config
        shots: list[Shot] = []
        captions: list[Caption] = []
        waiting: deque[Future[Caption]] = deque()

        def check() -> None:
            if job.abandoned or extensions["stopping"].is_set():
                raise Abandoned

        def wait() -> None:
            while True:
                check()
                try:
                    captions.append(waiting[0].result(0.5))
                except TimeoutError:
                    continue
                waiting.popleft()
                return

        size = extensions["captions"].generator.config["image_size"]
        try:
            with closing(read_shots_safely(file, size, config["VIDEO_SECONDS"])) as parts:
                for part in parts:
                    check()
                    if not isinstance(part, Shot):
                        job.progress = min(1.0, part.seconds / part.total) if part.total else None
                        continue
                    if len(waiting) == AHEAD:
                        wait()
                    waiting.append(self._submit(job, part.image, check))
                    shots.append(part._replace(image=np.empty(0, np.uint8)))  # no longer needed
            while waiting:
                wait()
        finally:
            for answer in waiting:  # of a clip that failed
                answer.cancel()
        return make_segments(shots, captions)

    def _submit(self, job: Job, image: np.ndarray, check: Callable[[], None]) -> Future[Caption]:
        while True:
            check()
            try:
                queue = self._app.extensions["captions"]  # another one after a reload
                return queue.submit(image, lambda: job.abandoned, job, job.beam_width, job.language)
            except QueueFull:
                time.sleep(0.2)
            except ValueError as error:  # a reload has taken the language away
                raise Abandoned from error
