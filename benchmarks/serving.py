"""Measure how long a caption takes: encoder, greedy and beam search, one `predict()` per word, the server under load.

    python benchmarks/serving.py

Prints a Markdown table after some minutes. Everything is measured in one run, with the model in
`artifacts/` (or `ARTIFACTS_DIR`) and random photos of the size of Flickr8k's. The machine should be idle.
"""

import argparse
import http.client
import io
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from PIL import Image

from captioning.generator import CaptionGenerator
from captioning.image_workers import ImageWorkers
from captioning.network.encoder import Encoder
from captioning.network.saving import load_model
from generate_captions import caption_files

WORDS = 11  # of a caption, the end token counted: what our own captions have
PREFIX = 35  # words that the one-predict-a-word model is padded to
BULK, BATCHES = 100, (1, 2, 4, 8, 16, 32)
ROUNDS = 9  # of what is compared with the encoder
RANDOM = np.random.default_rng(0)


def jpeg() -> bytes:
    """A photo of 500 × 375 pixels and about 60 KB."""
    blots = Image.fromarray(RANDOM.integers(0, 256, (75, 100, 3), np.uint8)).resize((500, 375))
    file = io.BytesIO()
    blots.save(file, "JPEG", quality=90)
    return file.getvalue()


def seconds(function, *arguments, repeat: int) -> float:
    """The median time of a call, after one that compiles."""
    np.asarray(function(*arguments))
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        np.asarray(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class OnePredictAWord:
    """The way of most tutorials: a merge model, and `model.predict` for each word of each beam (random weights)."""

    def __init__(self, vocabulary_size: int):
        self.encoder = keras.Sequential([Encoder("resnet50"), layers.GlobalAveragePooling1D()])
        image, words = keras.Input((2048,)), keras.Input((PREFIX,))
        from_image = layers.Dense(256, activation="relu")(layers.Dropout(0.5)(image))
        embedded = layers.Embedding(vocabulary_size, 256, mask_zero=True)(words)
        from_words = layers.LSTM(256)(layers.Dropout(0.5)(embedded))
        merged = layers.Dense(256, activation="relu")(layers.add([from_image, from_words]))
        self.model = keras.Model([image, words], layers.Dense(vocabulary_size, activation="softmax")(merged))

    def caption(self, photo: np.ndarray, beam_width: int) -> list[int]:
        features = self.encoder.predict(photo[None], verbose=0)
        beams = [([1], 0.0)]
        for _ in range(WORDS):  # it never knows when to end
            grown = []
            for prefix, score in beams:
                padded = np.pad(prefix, (0, PREFIX - len(prefix)))[None]
                probabilities = self.model.predict([features, padded], verbose=0)[0]
                for word in np.argsort(probabilities)[-beam_width:]:
                    grown.append(([*prefix, int(word)], score + np.log(probabilities[word])))
            beams = sorted(grown, key=lambda beam: beam[1])[-beam_width:]
        return beams[-1][0]


class Server:
    """`python app.py` in its own process, without a limit for one client."""

    def __enter__(self):
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "CAPTIONER_RATE_LIMIT": ""},
        )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.start_up = time.perf_counter() - start
        self.port = int(line.rpartition(":")[2])
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    @property
    def memory(self) -> int:
        """Resident megabytes of the server (Linux)."""
        return resident(self.process.pid)

    @property
    def worker_memory(self) -> int:
        """Resident megabytes of the processes that read photos (Linux)."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sum(resident(int(pid)) for path in children for pid in path.read_text().split())

    def load(
        self, clients: int, photo: bytes, duration: float, photos: int = 1
    ) -> tuple[list[float], list[int], float]:
        """Clients that send request after request, each with so many photos.

        Returns the seconds of each answer, its status, and the seconds of it all.
        """
        path = "/model/predict" if photos == 1 else "/api/captions"
        part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + photo + b"\r\n"
        body = part * photos + b"--x--\r\n"
        times, codes, start = [], [], time.perf_counter()

        def client():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            while True:
                sent = time.perf_counter()
                try:
                    headers = {"Content-Type": "multipart/form-data; boundary=x"}
                    connection.request("POST", path, body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    code = answer.status
                except (OSError, http.client.HTTPException):
                    connection.close()
                    code = 0
                times.append(time.perf_counter() - sent)
                codes.append(code)
                if time.perf_counter() - start >= duration:
                    return

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return times, codes, time.perf_counter() - start


def resident(pid: int) -> int:
    """Resident megabytes of a process (Linux)."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) // 1024


def first_caption(photo: bytes) -> float:
    """Seconds of `generate_captions.py one.jpg`."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(photo)
        file.flush()
        start = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "generate_captions.py", file.name], check=True, capture_output=True)
        return time.perf_counter() - start


def machine() -> str:
    try:
        name = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        name = platform.processor()
    return f"{os.cpu_count()} cores, {name}; Python {platform.python_version()}, TensorFlow {tf.__version__}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of load by 50 clients (default: 60)")
    duration = parser.parse_args().seconds
    rows: list[tuple[str, str, str]] = []

    folder = os.environ.get("ARTIFACTS_DIR", ROOT / "artifacts")
    generator, (encoder, *_) = CaptionGenerator.load(folder), load_model(folder)
    side, encode = generator.config["image_size"], generator.encode
    photos = RANDOM.integers(0, 256, (max(BATCHES), side, side, 3), np.uint8)

    bare = seconds(encode, photos[:1], repeat=20)
    rows.append(("encoder alone, one photo", f"{1000 * bare:.0f} ms", "1"))
    plain = seconds(tf.function(encoder.call), photos[:1], repeat=20)
    rows.append(("the same in float32, as Keras makes it", f"{1000 * plain:.0f} ms", f"{plain / bare:.2f}"))
    for name, width in (("greedy", 1), ("beam 3", 3)):
        took = seconds(lambda width=width: generator.caption_batch(list(photos[:1]), width)[0].probability, repeat=20)
        rows.append((f"encoder + {name}, one photo", f"{1000 * took:.0f} ms", f"{took / bare:.2f}"))

    slow = OnePredictAWord(len(generator.tokenizers[generator.languages[0]]))
    for name, width in (("greedy", 1), ("beam 3", 3)):
        one_predict = seconds(slow.caption, photos[0], width, repeat=3)
        rows.append(
            (f"one `predict()` a word, {name}, one photo", f"{1000 * one_predict:.0f} ms", f"{one_predict / bare:.1f}")
        )

    photo = jpeg()
    with tempfile.TemporaryDirectory() as folder, ImageWorkers() as workers:
        for number in range(BULK):
            Path(folder, f"{number}.jpg").write_bytes(photo)
        files = sorted(Path(folder).iterdir())
        list(caption_files(generator, workers, files[:8]))  # compiles
        speeds: list[float] = []
        products: dict[int, list[float]] = {size: [] for size in BATCHES}
        for _ in range(ROUNDS):  # turn by turn: a machine's speed changes within seconds
            alone = {size: seconds(encode, photos[:size], repeat=max(3, 32 // size)) / size for size in BATCHES}
            start = time.perf_counter()
            assert all(error is None for *_, error in caption_files(generator, workers, files))
            speeds.append(BULK / (time.perf_counter() - start))
            for size in BATCHES:
                products[size].append(speeds[-1] * alone[size])
    bulk, ratios = statistics.median(speeds), {size: statistics.median(values) for size, values in products.items()}
    best = min(BATCHES, key=ratios.__getitem__)  # the batch size at which the encoder alone is fastest
    rows.append((f"encoder alone, batches of {best}", f"{bulk / ratios[best]:.1f} photos/s", ""))
    rows.append((f"a folder of {BULK} photos, beam 3", f"{bulk:.1f} photos/s", f"{ratios[best]:.2f} of encoder alone"))

    with Server() as server:
        command = statistics.median(first_caption(photo) for _ in range(3))
        rows.append(("command line: start to the caption of one photo", f"{command:.1f} s", ""))
        rows.append(("server: start to ready", f"{server.start_up:.1f} s", ""))
        memory = f"{server.memory} + {server.worker_memory} MB"
        rows.append(("server: memory when ready, and of the processes that read photos", memory, ""))
        rounds, one_client = [], []
        for _ in range(ROUNDS):  # turn by turn, as above
            bare = seconds(encode, photos[:1], repeat=30)
            answers, codes, took = server.load(1, photo, duration / 30)
            assert set(codes) == {200}
            rounds.append(
                (statistics.median(answers) / bare, one_predict / statistics.median(answers), len(codes) / took)
            )
            one_client += answers
        ratio, faster, throughput = (statistics.median(values) for values in zip(*rounds))
        p50, p95, p99 = 1000 * np.percentile(one_client, [50, 95, 99])
        rows.append(
            (
                "server, 1 client: p50, p95, p99; photos/s",
                f"{p50:.0f}, {p95:.0f}, {p99:.0f} ms; {throughput:.1f}",
                f"{ratio:.2f}; {faster:.0f} × faster than one `predict()` a word",
            )
        )
        for clients in (8, 50):
            if clients == 50:
                server.load(clients, photo, duration / 6)  # until the memory has settled
                memory = server.memory
            times, codes, took = server.load(clients, photo, duration if clients == 50 else duration / 6)
            p50, p95, p99 = np.percentile(times, [50, 95, 99])
            throughput = codes.count(200) / took
            what = f"server, {clients} clients: p50, p95, p99; photos/s"
            errors = f"; {len(codes) - codes.count(200)} errors of {len(codes)}" if set(codes) != {200} else ""
            figures = f"{1000 * p50:.0f}, {1000 * p95:.0f}, {1000 * p99:.0f} ms; {throughput:.1f}"
            rows.append((what, figures + errors, f"{throughput / bulk:.2f} of the folder"))
        growth = 100 * (server.memory / memory - 1)
        rows.append((f"server: memory after {duration:.0f} s of 50 clients", f"{server.memory} MB", f"{growth:+.1f} %"))
        idle = np.percentile(server.load(1, photo, duration / 12)[0], 95)
        crowd = threading.Thread(target=server.load, args=(1, photo, duration / 6, 20))
        crowd.start()
        p95 = np.percentile(server.load(1, photo, duration / 6 - 1)[0], 95)
        crowd.join()
        batch = np.percentile(server.load(1, photo, duration / 12, 20)[0], 95)
        rows.append(
            (
                "server, 1 client with one photo beside one with 20: p95",
                f"{1000 * p95:.0f} ms",
                f"idle p95: {1000 * idle:.0f} ms; 20 photos alone: {1000 * batch:.0f} ms",
            )
        )
        times, codes, _ = server.load(300, photo, 0)
        answers = ", ".join(f"{codes.count(code)} × {code}" for code in sorted(set(codes)))
        rows.append(("server, 300 clients at once: answers; slowest", f"{answers}; {max(times):.1f} s", ""))
        recovered = []
        for _ in range(3):
            after = statistics.median(server.load(1, photo, 2)[0])
            recovered.append((after, after / seconds(encode, photos[:1], repeat=30)))
        after, ratio = (statistics.median(values) for values in zip(*recovered))
        rows.append(("server, one client after that: p50", f"{1000 * after:.0f} ms", f"{ratio:.2f}"))

    print(f"{machine()}. Model: {generator.config['encoder']}, {generator.config['decoder']} decoder.\n")
    print("| | time | × encoder alone |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
