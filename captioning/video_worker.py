"""Reads a clip in a process of its own, so that an untrusted clip costs this process and not the server."""

import math
import signal
from collections.abc import Generator
from typing import BinaryIO

from captioning.cores import CPU_COUNT
from captioning.shots import Progress, Shot
from captioning.video import MAX_SECONDS, damaged, too_much_memory, too_much_time
from captioning.worker_process import OutOfTime, ProcessLost, WorkerProcess

THREADS = min(CPU_COUNT, 4)  # of the decoder


def read_shots_safely(
    file: BinaryIO,
    size: int,
    max_seconds: float = MAX_SECONDS,
    *,
    cpu_seconds: float | None = None,
    wall_seconds: float = 60,
    memory: int = 10**9,
) -> Generator[Shot | Progress, None, None]:
    """As `captioning.shots.read_shots`, within limits. The process ends with the iterator.

    Args:
        file: a file of the system: one that has a descriptor.
        cpu_seconds: processor time that the clip may take; by default ``max_seconds``.
        wall_seconds: time after which a process that reports nothing is taken to hang.
        memory: bytes that the process may use on top of what it needs when it has started.

    Raises:
        VideoError: as for `read_shots`, or the clip exceeds a limit.
        ValueError: ``max_seconds`` is not a finite number above 0.
        RuntimeError: no process can be started, or the file cannot be read.
    """
    if not 0 < max_seconds < math.inf:
        raise ValueError(f"max_seconds must be a finite number above 0, not {max_seconds}")
    descriptor = file.fileno()
    limits = {"cpu_seconds": cpu_seconds or max_seconds, "wall_seconds": wall_seconds}
    worker = WorkerProcess("captioning.video_process", **limits, memory=memory, files=[descriptor])
    try:
        try:
            worker.start()
        except OSError as error:
            raise RuntimeError(f"No process can be started to read a clip: {error}.") from None
        worker.send((descriptor, size, max_seconds, THREADS))
        while (part := worker.receive()) is not None:
            if isinstance(part, OSError):
                raise RuntimeError(f"The clip cannot be read: {part.strerror or part}.")
            if isinstance(part, Exception):
                raise part
            yield part
    except OutOfTime:
        raise too_much_time() from None
    except ProcessLost as lost:
        if lost.code == -signal.SIGKILL:  # what the system does when memory is full
            raise too_much_memory() from None
        if lost.code < 0:
            raise damaged() from None
        raise RuntimeError(f"The process that reads a clip ended with exit code {lost.code}.") from None
    finally:
        worker.stop()
