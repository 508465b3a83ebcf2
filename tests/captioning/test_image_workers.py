"""Pictures are opened in worker processes: the same photos as without, and no picture harms more than its worker.

Slow: it starts processes and lets pictures reach the limits.
"""

import gc
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import hostile_images
import numpy as np
import psutil
import pytest
from helpers import started, wait_until
from hostile_images import LARGE, QUICK, SLOW, chunk, encoded, jpeg_of_size, png
from PIL import Image

from captioning import image_workers, images, worker_process
from captioning.image_workers import ImageWorkers, NoWorker
from captioning.images import ImageError, Photo, open_photo, read_image, resize_image
from captioning.shots import Progress

pytestmark = pytest.mark.slow

ROOT = Path(image_workers.__file__).parents[1]
PHOTO = hostile_images.small("JPEG")
BUSY = png(1, 1, chunk(b"abCd") * 400_000)  # takes about a second to open


@pytest.fixture(scope="module")
def workers():
    with ImageWorkers(2) as pool:
        yield pool


def processes(parent: int | None = None) -> list[psutil.Process]:
    """The worker processes of this process or of another one."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):
            if "captioning.image_workers" in " ".join(child.cmdline()):
                found.append(child)
    return found


@contextmanager
def lone_worker(**limits):
    """A pool of one worker, and a function that returns its process; other pools of this process do not count."""
    before = {process.pid for process in processes()}

    def process() -> psutil.Process:
        return wait_until(lambda: [p for p in processes() if p.pid not in before])[0]  # a new one may be starting

    with ImageWorkers(1, **limits) as pool:
        pool.read(PHOTO, size=32)
        yield pool, process


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_it_opens(process: psutil.Process) -> None:
    """Until it has been busy for a while, so that it has read all of a picture."""
    before = process.cpu_times().user
    wait_until(lambda: process.cpu_times().user > before + 0.1)


def answer(pool: ImageWorkers, source) -> Photo | ImageError:
    try:
        return pool.read(source, size=224)
    except ImageError as error:
        return error


# The same photos as without workers


@pytest.mark.parametrize("format", images.FORMATS)
@pytest.mark.parametrize("size", [(500, 375), (600, 450), (90, 400)])
def test_bit_by_bit_the_same_photo(workers, format, size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 5, size[0] // 5, 3), np.uint8)
    data = encoded(Image.fromarray(noise).resize(size), format)
    path = tmp_path / "photo"
    path.write_bytes(data)
    expected = resize_image(open_photo(data, min_size=(224, 224)), (224, 224))
    for source in (data, path):
        photo = workers.read(source, size=224)
        assert np.array_equal(photo.image, expected)
        assert (photo.width, photo.height, photo.preview) == (*size, None)


def test_original_size_is_that_of_the_upright_photo(workers):
    photo = workers.read(encoded(Image.new("RGB", (1600, 1200)), "JPEG", exif=hostile_images.turned()), size=64)
    assert (photo.width, photo.height) == (1200, 1600)


@pytest.mark.parametrize(
    ("size", "small"), [((1600, 1200), (800, 600)), ((300, 1600), (150, 800)), ((60, 40), (60, 40))]
)
def test_preview(workers, size, small):
    photo = workers.read(encoded(Image.new("RGB", size, (200, 10, 10)), "PNG"), size=224, preview=800)
    assert photo.preview[1:] == small
    jpeg = Image.open(io.BytesIO(photo.preview.jpeg))
    assert (jpeg.format, jpeg.size) == ("JPEG", small)
    assert photo.preview.pixels.shape == (small[1], small[0], 3)
    assert np.abs(photo.preview.pixels.astype(int) - (200, 10, 10)).max() < 5


def test_errors_are_those_of_images(workers, tmp_path):
    for source, kind, message in (
        (b"", "damaged", "empty"),
        (b"hello", "unsupported", "HEIC"),
        (encoded(Image.new("L", (99, 99)), "PNG")[:60], "damaged", "damaged"),
        (jpeg_of_size(60_000, 60_000), "too large", "50 million pixels"),
        (tmp_path / "absent.jpg", "damaged", "No such file"),
        (tmp_path, "damaged", "directory"),
    ):
        with pytest.raises(ImageError, match=message) as raised:
            workers.read(source, size=224)
        assert raised.value.kind == kind


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA", "LA"])
def test_work_in_strips_leaves_no_trace(mode):
    """A photo of several strips, and the same formula for the whole at once."""
    random = np.random.default_rng(0)
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(random.integers(0, 256, (1500, 2100, len(mode)), np.uint8))
        whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    else:
        values = random.integers(-9, 60_000, (1500, 2100)).clip(0 if mode == "I;16" else -9)
        values[-1, -1] = 65_000
        image = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
        grey = np.clip(np.float32(values) / np.float32(65_535 if mode == "I;16" else 65_000), 0, 1) * 255 + 0.5
        whole = Image.fromarray(np.uint8(grey)).convert("RGB")
    assert np.array_equal(read_image(image), np.asarray(whole))


# Hostile pictures


@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_picture_is_answered(workers, name):
    data = QUICK[name]()
    found = answer(workers, data)
    if isinstance(found, Photo):
        assert found.image.shape == (224, 224, 3)
    else:
        assert found.kind in ("unsupported", "too large", "damaged")


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_hostile_picture_is_answered(name):
    """Slow because each picture takes seconds of a processor, up to the limit."""
    data = SLOW[name]()
    with lone_worker(cpu_seconds=1) as (pool, process):
        children = os.times().children_user + os.times().children_system
        busy = sum(process().cpu_times()[:2])
        found = answer(pool, data)
        assert pool.read(PHOTO, size=32), "the next picture is opened as ever"
    assert isinstance(found, Photo) or found.kind in ("too large", "damaged")
    used = os.times().children_user + os.times().children_system - children - busy
    assert used < 1.5 + 2 * busy  # of the picture, the next one, and the start of a new worker


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_is_opened_and_its_memory_comes_back(name):
    """Slow because pictures of 49 million pixels take seconds to make."""
    data = LARGE[name]()
    with lone_worker(cpu_seconds=60, wall_seconds=120) as (pool, process):
        photo = pool.read(data, size=224, preview=800)
        assert (photo.width, photo.height) == (7000, 7000)
        assert 2 * 224 <= photo.preview.width <= 800

        def is_small() -> bool:
            with suppress(psutil.NoSuchProcess):  # it is being replaced
                return process().memory_info().rss < image_workers.MAX_IDLE_MEMORY
            return False

        wait_until(is_small)


SERVER = """
import gc, json, pickle, sys, threading, time
from pathlib import Path
import psutil
from captioning.image_workers import ImageWorkers

def answer(path):
    error = pool.submit(path.read_bytes(), size=224, preview=800).exception(60)
    assert error is None or type(error).__name__ == "ImageError", error

def watch():
    while True:
        sizes = []
        for child in this.children():
            try:
                sizes.append(child.memory_info().rss)
            except psutil.Error:
                pass
        peaks.append(sum(sizes))
        time.sleep(0.01)

this, peaks, paths = psutil.Process(), [], sorted(Path(sys.argv[1]).iterdir())
with ImageWorkers(2) as pool:
    answer(paths[0])
    gc.collect()
    before = this.memory_info().rss
    threading.Thread(target=watch, daemon=True).start()
    def client(own):
        for path in own:
            answer(path)
    turns = (paths * 9)[:int(sys.argv[2])]
    clients = [threading.Thread(target=client, args=(turns[n::2],)) for n in range(2)]
    [thread.start() for thread in clients], [thread.join() for thread in clients]
    after = this.memory_info().rss
    for child in this.children():
        assert child.memory_info().rss < 110e6
print(json.dumps([before, after, max(peaks), len(turns)]))
"""


def test_memory_of_server_and_workers(tmp_path):
    """Slow because it opens all hostile pictures and the large ones, two at a time."""
    for number, make in enumerate([*QUICK.values(), *LARGE.values()]):
        (tmp_path / f"{number:02}").write_bytes(make())
    command = [sys.executable, "-c", SERVER, tmp_path, "100"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert run.returncode == 0, run.stderr
    before, after, peak, count = eval(run.stdout)
    assert count == 100
    assert after - before < 90_000_000, (before, after)  # 30 % of the server with its model
    assert peak < 2 * 2**30


# Limits


@pytest.mark.parametrize(
    ("limits", "picture", "message"),
    [
        ({"memory": 100_000_000}, png(7000, 7000), "too much memory"),
        ({"cpu_seconds": 0.2}, BUSY, "too long"),
        ({"wall_seconds": 0.5}, BUSY, "too long"),
    ],
)
def test_limits(limits, picture, message):
    with ImageWorkers(1, **limits) as pool:
        wait([pool.submit(PHOTO, size=32)])
        for _ in range(2):
            with pytest.raises(ImageError, match=message) as raised:
                pool.read(picture, size=224)
            assert raised.value.kind == "too large"
    with ImageWorkers(1, **{**limits, "cpu_seconds": 5, "wall_seconds": 10}) as pool:
        assert pool.read(PHOTO, size=32)


def test_time_limit_counts_anew_for_each_picture():
    with ImageWorkers(1, cpu_seconds=1) as pool:
        for _ in range(200):
            pool.read(PHOTO, size=224, preview=800)
        part = png(1, 1, chunk(b"abCd") * 30_000)
        for _ in range(24):
            pool.read(part, size=32)


# Workers that are lost


def test_a_picture_is_tried_again_when_its_worker_is_killed():
    with lone_worker(cpu_seconds=60, wall_seconds=120) as (pool, process):
        future, victim = pool.submit(BUSY, size=32), process()
        wait_until_it_opens(victim)
        victim.kill()
        assert future.result(60).image.shape == (32, 32, 3)
        assert process().pid != victim.pid


def test_a_picture_whose_worker_is_killed_twice_is_given_up():
    with lone_worker(cpu_seconds=60, wall_seconds=120) as (pool, process):
        future, killed = pool.submit(BUSY, size=32), set()
        others = [pool.submit(PHOTO, size=32) for _ in range(9)]
        for _ in range(2):
            victim = process()
            wait_until_it_opens(victim)
            victim.kill()
            killed.add(victim.pid)
            wait_until(lambda: not killed & {process.pid for process in processes()})
        with pytest.raises(ImageError, match="too much memory"):
            future.result(60)
        assert len(killed) == 2
        assert all(other.result(60).image.shape == (32, 32, 3) for other in others)


def test_an_idle_worker_that_is_killed_is_no_loss():
    with lone_worker() as (pool, process):
        for _ in range(3):
            process().kill()
            assert pool.read(PHOTO, size=32)


def test_a_worker_that_hangs_is_replaced():
    with lone_worker(wall_seconds=1.5) as (pool, process):
        process().suspend()
        with pytest.raises(ImageError, match="too long"):
            pool.submit(PHOTO * 20_000, size=32).result(20)  # more than the socket holds
        assert pool.read(PHOTO, size=32)


def test_a_worker_that_cannot_start_is_an_error_of_ours(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    with ImageWorkers(1) as pool, pytest.raises(NoWorker, match="No process can be started"):
        pool.read(PHOTO, size=32)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with ImageWorkers(1) as pool, pytest.raises(RuntimeError, match="exit code 1"):
        pool.read(PHOTO, size=32)


def test_an_answer_that_makes_no_sense_costs_a_worker_and_no_thread(monkeypatch):
    with lone_worker() as (pool, process):
        first = process()
        with monkeypatch.context() as patch:
            broken = lambda file: SimpleNamespace(load=lambda: file.read(1) and 1 / 0)  # noqa: E731
            patch.setattr(worker_process, "_Answers", broken)
            with pytest.raises(ImageError, match="damaged"):
                pool.read(PHOTO, size=32)
        assert pool.read(PHOTO, size=32) and process().pid != first.pid


@pytest.mark.parametrize("harmful", [os.system, shutil.rmtree, eval, np.load, np.float32(2), SimpleNamespace()])
def test_an_answer_cannot_run_code(harmful):
    """A broken decoder may have let a file take over the process that answers."""
    with pytest.raises(pickle.UnpicklingError, match="an answer contains"):
        worker_process._Answers(io.BytesIO(pickle.dumps(harmful))).load()


@pytest.mark.parametrize(
    "answer",
    [(1, "a", b"c", None), images.damaged(), np.arange(6).reshape(2, 3)[:, ::2], Progress(2.0, None)],
)
def test_what_an_answer_may_hold(answer):
    data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    assert repr(worker_process._Answers(io.BytesIO(data)).load()) == repr(answer)


def test_an_answer_imports_nothing():
    with pytest.raises(pickle.UnpicklingError, match="an answer contains"):
        worker_process._Answers(io.BytesIO(b"\x80\x04cnumpy.f2py.__main__\nmain\n.")).load()
    assert "numpy.f2py.__main__" not in sys.modules


MAIN_SCRIPT = """
import sys
print("imported", flush=True)
if __name__ == "__main__":
    import signal
    import time
    from pathlib import Path
    from captioning.image_workers import ImageWorkers
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    pool = ImageWorkers(2)
    pool.read(Path(sys.argv[1]), size=32)
    pool.submit(Path(sys.argv[2]), size=32)
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        pool.close()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    """Also when one is stopped, and one is busy."""
    script, photo, busy = tmp_path / "main.py", tmp_path / "photo", tmp_path / "busy"
    script.write_text(MAIN_SCRIPT)
    photo.write_bytes(PHOTO)
    busy.write_bytes(BUSY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, photo, busy]
    with started(command, env=environment, start_new_session=True) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["imported\n", "ready\n"], (
            "workers import no main script"
        )
        lost = processes(parent.pid)
        assert len(lost) == 2
        wait_until(lambda: all(process.rlimit(psutil.RLIMIT_AS)[0] > 0 for process in lost))  # they have started
        if number == signal.SIGKILL:
            lost[0].suspend()
        os.killpg(parent.pid, number)  # as a terminal does on Ctrl-C
        rest = parent.stdout.read()
        assert rest == ("interrupted\n" if number == signal.SIGINT else "")
    wait_until(lambda: not any(is_alive(process) for process in lost), 5)


def test_signals_to_all_processes_of_a_service_do_not_end_a_worker():
    with lone_worker() as (pool, process):
        first = process()
        for number in (signal.SIGINT, signal.SIGTERM):
            first.send_signal(number)
            assert pool.read(PHOTO, size=32)
        assert process().pid == first.pid


# The pool


def test_close_ends_the_workers_and_cancels_what_waits():
    files = psutil.Process().num_fds()
    before = {process.pid for process in processes()}
    pool = ImageWorkers(2)
    futures = [pool.submit(BUSY if n else PHOTO, size=224) for n in range(500)]
    futures[0].result()
    pool.close()
    pool.close()
    assert all(future.cancelled() or future.result() for future in futures)
    assert futures[-1].cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(PHOTO, size=32)
    assert {process.pid for process in processes()} <= before
    gc.collect()
    assert psutil.Process().num_fds() <= files


def test_a_cancelled_picture_is_not_opened():
    with lone_worker() as (pool, process):
        process().suspend()
        first, second = pool.submit(PHOTO, size=32), pool.submit(Path("/absent"), size=32)
        assert second.cancel()
        process().resume()
        assert first.result()
        assert pool.read(PHOTO, size=32)


def test_many_threads(workers):
    found: list[bool] = []
    data = [hostile_images.small(format) for format in images.FORMATS]
    expected = [read_image(photo) for photo in data]

    def client():
        found.extend(np.array_equal(workers.read(p, size=64).image, e) for p, e in zip(data, expected, strict=True))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 * len(data)
    assert all(found)


def test_a_relative_path_is_that_of_the_caller(tmp_path, monkeypatch, workers):
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    monkeypatch.chdir(tmp_path)
    assert workers.read(Path("photo.jpg"), size=32)


def test_an_idle_worker_is_small():
    with lone_worker() as (_, process):
        assert process().memory_info().rss < 60e6
        libraries = {Path(region.path).name for region in process().memory_maps()}
        assert not [name for name in libraries if "tensorflow" in name.lower() or "litert" in name.lower()]
    code = "import sys, captioning.image_workers; print({name.split('.')[0] for name in sys.modules})"
    modules = eval(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))
    assert not modules & {"flask", "keras", "tensorflow", "ai_edge_litert", "web", "h5py", "waitress"}
