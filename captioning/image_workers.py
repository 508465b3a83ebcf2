"""Opens pictures in worker processes, so that an untrusted picture costs a worker and not the server.

```python
with ImageWorkers() as workers:
    photo = workers.read(upload, size=224, preview=800)    # photo.image: uint8 (224, 224, 3)
```

Processor time, wall time and memory are limited for each picture. For one that exceeds a limit, the caller gets an
`ImageError`. A worker that runs out of time ends, and a new one takes its place. Only Linux limits the memory; Windows
cannot run this.

The parent has a thread for each worker. The thread takes a picture from the queue, sends it to the worker, and waits
for the answer. A worker imports only Pillow, NumPy and this package.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from captioning.cores import CPU_COUNT
from captioning.images import Photo, damaged, read_photo, too_much_memory, too_much_time
from captioning.worker_process import OutOfTime, ProcessLost, WorkerProcess

MAX_IDLE_MEMORY = 100_000_000
"""Bytes. A worker that keeps more when its picture is done is replaced; 43 million are usual."""

Order = tuple[bytes | Path, int, int | None]
"""What a worker is asked for: source, size and preview, as in `ImageWorkers.submit`."""


class NoWorker(RuntimeError):
    """The system starts no process."""


class ImageWorkers:
    """A pool of worker processes that open pictures. Several threads may use it.

    Args:
        workers: how many pictures are opened at a time; by default one for each core.
        limits: of `WorkerProcess`, for each picture.
    """

    def __init__(self, workers: int | None = None, **limits: Any):
        limits = {"cpu_seconds": 5, "wall_seconds": 10} | limits
        self._waiting: queue.SimpleQueue[tuple[Future[Photo], Order] | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # so that nothing is queued after the workers were told to end
        self._threads = [
            threading.Thread(target=self._serve, args=(WorkerProcess(__name__, **limits),), daemon=True)
            for _ in range(workers or CPU_COUNT)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, source: bytes | Path, *, size: int, preview: int | None = None) -> Future[Photo]:
        """Queues a picture. One that is cancelled while it waits costs nothing.

        Args:
            source: the bytes of a file, or its path: the worker opens the file.
            size: height and width of the photo's `image` in pixels.
            preview: pixels of the longer side of the photo's `preview` at most; without it there is none.

        Returns:
            Future of the photo. Its exception is an `ImageError` where the picture cannot be read or takes too much.

        Raises:
            RuntimeError: the pool is closed.
        """
        if isinstance(source, Path):
            source = source.absolute()  # the folder may be another one when a worker starts
        future: Future[Photo] = Future()
        with self._closing:
            if self._closed:
                raise RuntimeError("The image workers are closed.")
            self._waiting.put((future, (source, size, preview)))
        return future

    def read(self, source: bytes | Path, *, size: int, preview: int | None = None) -> Photo:
        """Submits a picture and waits for the photo. Arguments and errors as for `submit`."""
        return self.submit(source, size=size, preview=preview).result()

    def close(self) -> None:
        """Cancels the pictures that wait, finishes those that are being opened, and ends the workers."""
        with self._closing:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while task := self._waiting.get_nowait():
                    task[0].cancel()
            for _ in self._threads:
                self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "ImageWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, worker: WorkerProcess) -> None:
        """What the thread of a worker does."""
        while True:
            with contextlib.suppress(OSError):  # tried again, and reported, when a picture is there
                _prepare(worker)
            if not self._serve_one(worker):
                break
        worker.stop()

    def _serve_one(self, worker: WorkerProcess) -> bool:
        """A function of its own, so that no variable keeps the picture while the thread waits for the next one."""
        if (task := self._waiting.get()) is None:
            return False
        future, order = task
        if future.set_running_or_notify_cancel():
            try:
                answer = _open(worker, order)
            except Exception as error:  # this thread must serve the next picture
                answer = error
            if isinstance(answer, Photo):
                future.set_result(answer)
            else:
                future.set_exception(answer)
        return True


def _prepare(worker: WorkerProcess) -> None:
    """Starts a process, unless there is one that is alive and has given back its memory."""
    memory = worker.resident()
    if memory is None or memory > MAX_IDLE_MEMORY:
        worker.stop()
        worker.start()


def _open(worker: WorkerProcess, order: Order) -> Photo | Exception:
    """Lets a process open a picture. Errors are returned: an error that is raised keeps the picture in memory."""
    code = 0
    try:
        for _ in range(2):  # a process that is killed from outside is not the picture's fault: one more trial
            _prepare(worker)
            try:
                worker.send(order)
                return worker.receive()
            except OutOfTime:
                return too_much_time()
            except ProcessLost as lost:
                code = lost.code
    except OSError as error:
        return NoWorker(f"No process can be started to read a photo: {error}.")
    if code == -signal.SIGKILL:  # what the system does when memory is full
        return too_much_memory()
    return damaged() if code < 0 else RuntimeError(f"An image worker ended with exit code {code}.")


def answer(source: bytes | Path, size: int, preview: int | None) -> Iterator[Photo]:
    """In the process: opens a picture."""
    try:
        yield read_photo(source, size, preview)
    except MemoryError:
        raise too_much_memory() from None
