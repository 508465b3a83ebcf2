"""Opens pictures in worker processes, so that a hostile picture costs a worker and not the server.

```python
with ImageWorkers() as workers:
    photo = workers.read(upload, size=224, preview=800)    # photo.image: uint8 (224, 224, 3)
```

Processor time, wall time and memory are limited for each picture. A worker that exceeds a limit ends, a new one takes
its place, and the caller gets an `ImageError`. Only Linux limits the memory; Windows cannot run this.

The parent has a thread for each worker. The thread takes a picture from the queue, pickles it into a socket, and waits
for the answer. A worker imports only Pillow, NumPy and this package. It is started with `subprocess`, because
`multiprocessing` and the libraries that build on it import the main script in each worker, and with it all of Flask.
"""

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from captioning.images import Photo, damaged, read_photo, too_much_memory, too_much_time

MAX_IDLE_MEMORY = 100_000_000
"""Bytes. A worker that keeps more when its picture is done is replaced; 43 million are usual."""

ENVIRONMENT = {  # of a worker
    "MALLOC_ARENA_MAX": "1",  # each arena reserves address space, and that is what is limited
    "MALLOC_MMAP_THRESHOLD_": str(2**22),  # bytes; what a large picture took goes back to the system at once
    "MALLOC_TRIM_THRESHOLD_": str(2**24),
    "OPENBLAS_NUM_THREADS": "1",
}

Order = tuple[bytes | Path, int, int | None]
"""What a worker is asked for: source, size and preview, as in `ImageWorkers.submit`."""


class ImageWorkers:
    """A pool of worker processes that open pictures. Several threads may use it.

    Args:
        workers: how many pictures are opened at a time; by default one for each processor.
        cpu_seconds: processor time that a picture may take.
        wall_seconds: time after which a worker that has not answered is taken to hang.
        memory: bytes that a worker may use on top of what it needs when it has started.
    """

    def __init__(
        self, workers: int | None = None, *, cpu_seconds: float = 5, wall_seconds: float = 10, memory: int = 10**9
    ):
        self._waiting: queue.SimpleQueue[tuple[Future[Photo], Order] | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # so that nothing is queued after the workers were told to end
        self._threads = [
            threading.Thread(target=self._serve, args=(_Worker(cpu_seconds, wall_seconds, memory),), daemon=True)
            for _ in range(workers or os.cpu_count() or 1)
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

    def _serve(self, worker: "_Worker") -> None:
        """What the thread of a worker does."""
        while True:
            with contextlib.suppress(OSError):  # tried again, and reported, when a picture is there
                worker.prepare()
            if not self._serve_one(worker):
                break
        worker.stop()

    def _serve_one(self, worker: "_Worker") -> bool:
        """A function of its own, so that no variable keeps the picture while the thread waits for the next one."""
        if (task := self._waiting.get()) is None:
            return False
        future, order = task
        if future.set_running_or_notify_cancel():
            answer = worker.open(order)
            if isinstance(answer, Photo):
                future.set_result(answer)
            else:
                future.set_exception(answer)
        return True


class _Worker:
    """A worker process, seen from the parent; one that ends is replaced."""

    def __init__(self, cpu_seconds: float, wall_seconds: float, memory: int):
        self.cpu_seconds, self.wall_seconds, self.memory = cpu_seconds, wall_seconds, memory
        self.process: subprocess.Popen | None = None

    def prepare(self) -> None:
        """Starts a process, unless there is one that is alive and has given back its memory."""
        if self.process and self.process.poll() is None and _resident(self.process.pid) <= MAX_IDLE_MEMORY:
            return
        self.stop()
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(self.wall_seconds)
        self.answers = self.socket.makefile("rb")
        path = [str(Path(__file__).parents[1]), *sys.path]
        call = f"work({theirs.fileno()}, {self.cpu_seconds}, {self.memory})"
        code = f"import sys; sys.path[:] = {path}; from captioning.image_workers import work; {call}"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is for the parent alone
            )

    def stop(self) -> int:
        """Ends the process, if there is one; returns its exit code."""
        if not self.process:
            return 0
        self.process.kill()
        self.answers.close()
        self.socket.close()
        code, self.process = self.process.wait(), None
        return code

    def open(self, order: Order) -> Photo | Exception:
        """Lets the process open a picture. Errors are returned: an error that is raised keeps the picture in memory."""
        code = 0
        try:
            for _ in range(2):  # a process that is killed from outside is not the picture's fault: one more trial
                self.prepare()
                try:
                    _send(self.socket, order)
                    return pickle.load(self.answers)
                except TimeoutError:
                    self.stop()
                    return too_much_time()
                except (OSError, EOFError, pickle.UnpicklingError):
                    code = self.stop()
                    if code == -signal.SIGPROF:
                        return too_much_time()
        except OSError as error:
            return RuntimeError(f"No image worker can be started: {error}.")
        return damaged() if code < 0 else RuntimeError(f"An image worker ended with exit code {code}.")


def _resident(pid: int) -> int:
    """Bytes of memory of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _send(connection: socket.socket, message: object) -> None:
    class Stream:
        write = staticmethod(connection.sendall)

    pickle.dump(message, Stream, pickle.HIGHEST_PROTOCOL)  # writes large bytes as they are: no copy is made


# In a worker


def work(descriptor: int, cpu_seconds: float, memory: int) -> None:
    """Opens pictures until the parent closes the socket or is gone."""
    import resource  # not on Windows, where this module can still be imported

    for number in (signal.SIGINT, signal.SIGTERM):  # often sent to all processes of a service; the parent decides
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with the thread that started it
        most = memory + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else the decoders write a line for each broken picture
    connection = socket.socket(fileno=descriptor)
    orders = connection.makefile("rb")
    with contextlib.suppress(EOFError, OSError):
        while True:
            _send(connection, _open(pickle.load(orders), cpu_seconds))


def _open(order: Order, cpu_seconds: float) -> Photo | Exception:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # then SIGPROF ends the process
    try:
        return read_photo(*order)
    except MemoryError:
        return too_much_memory()
    except Exception as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
