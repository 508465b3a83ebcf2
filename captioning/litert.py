"""Run exported models with LiteRT on all cores.

A single photo is computed by all cores together. Of several photos, each core computes its own: that is faster.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from captioning.cores import CPU_COUNT

Item = TypeVar("Item")
Items = TypeVar("Items", Sequence, np.ndarray)
Result = TypeVar("Result")


MAX_THREADS = 8  # of one interpreter; more are not faster
AHEAD = 4  # items per core that `parallel_map` takes in advance

_has_started, _starting = False, threading.Lock()
_thread = threading.local()
_workers = ThreadPoolExecutor(CPU_COUNT, "inference", initializer=lambda: setattr(_thread, "is_worker", True))


def cores() -> int:
    """The cores that the calling thread may use: one in a worker of `parallel_map`, all elsewhere."""
    return 1 if getattr(_thread, "is_worker", False) else CPU_COUNT


def on_one_core(function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Call a function in another thread, which uses one core. There is a thread for each core."""
    return _workers.submit(function, *arguments)


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` with one thread per core. A single item is computed by the calling thread, with all cores.

    Items are taken from an iterator only shortly before they are needed.
    """
    items = iter(items)
    first = list(islice(items, 2))
    return map(function, chain(first, items)) if len(first) == 1 or cores() == 1 else _stream(function, first, items)


def _stream(function: Callable[[Item], Result], first: list[Item], items: Iterator[Item]) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(first, items):
            waiting.append(on_one_core(function, item))
            if len(waiting) > AHEAD * CPU_COUNT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def make_batches(items: Items, batch_size: int) -> list[Items]:
    """Cut ``items`` into batches of ``batch_size``, the same number for each core, and the rest into single items."""
    full = len(items) // (batch_size * cores()) * batch_size * cores()
    batches = [items[i : i + batch_size] for i in range(0, full, batch_size)]
    return batches + [items[i : i + 1] for i in range(full, len(items))]


class Model:
    """An exported function of a batch. Several threads may use it.

    Args:
        sources: batch size → the path or the content of a ``.tflite`` file that computes batches of this size. One of
            them is 1.

    Raises:
        ValueError: one is not such a file.
    """

    def __init__(self, sources: Mapping[int, Path | bytes]):
        self._sources = sources
        self._lock = threading.Lock()
        self._shared = _interpreter(sources[1], min(CPU_COUNT, MAX_THREADS))  # for a single photo, on all cores
        self._own = threading.local()  # for each worker of `parallel_map`, on one core

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Compute a batch of any size from 1 up: (B, …) of the dtype that was exported → the outputs, each (B, …)."""
        batches = make_batches(batch, max(self._sources))
        results = list(parallel_map(self._run, batches))
        return results[0] if len(results) == 1 else [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        if cores() > 1:
            with self._lock:  # an interpreter serves one thread at a time
                return self._shared(batch)
        if not hasattr(self._own, "interpreters"):
            self._own.interpreters = {size: _interpreter(source, 1) for size, source in self._sources.items()}
        return self._own.interpreters[len(batch)](batch)


def _interpreter(source: Path | bytes, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    where = {"model_path": str(source)} if isinstance(source, Path) else {"model_content": source}
    interpreter = Interpreter(**where, num_threads=threads)
    (inputs,) = interpreter.get_input_details()
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def run(batch: np.ndarray) -> list[np.ndarray]:
        _allocate(interpreter)
        interpreter.set_tensor(inputs["index"], batch)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def _allocate(interpreter: Interpreter) -> None:
    """Allocate the tensors, if necessary. Drop the useless line that LiteRT's first call prints on standard error."""
    global _has_started
    if _has_started:
        interpreter.allocate_tensors()
        return
    with _starting:
        with no_standard_error():
            interpreter.allocate_tensors()
        _has_started = True


@contextlib.contextmanager
def no_standard_error() -> Iterator[None]:
    """Drop what C++ code prints on standard error. Python's errors are raised as always."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        standard_error = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
