"""How long a clip takes, and how much memory: python benchmarks/video.py [--seconds 180] [--width 1920]

It makes a clip with a cut every six seconds, a moving camera and film grain, and captions it as the command line does.
Processor time says more than wall time if other programs run.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import av
import numpy as np
import psutil
from PIL import Image

from captioning.cores import CPU_COUNT
from captioning.generator import CaptionGenerator

SHOT, RATE = 6, 30  # seconds, frames a second


def make_clip(path: Path, seconds: int, width: int) -> None:
    """H.264 at about 6 megabits a second."""
    height = width * 9 // 16
    random = np.random.default_rng(0)
    grain = [random.integers(-5, 6, (height, width, 3), np.int8) for _ in range(4)]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 6_000_000
        for number in range(seconds * RATE):
            if number % (SHOT * RATE) == 0:
                blots = random.integers(8, 248, (40, 60, 3), np.uint8)
                scene = np.asarray(Image.fromarray(blots).resize((width + 2 * SHOT * RATE, height + SHOT * RATE)))
            step = number % (SHOT * RATE)
            picture = scene[step : step + height, 2 * step : 2 * step + width] + grain[number % 4].view(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the captioning of a clip.")
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--width", type=int, default=1920)
    options = parser.parse_args()
    generator = CaptionGenerator.load(os.environ.get("ARTIFACTS_DIR", Path(__file__).parents[1] / "artifacts"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_clip(path, options.seconds, options.width)
        print(f"clip: {options.seconds} s, {options.width} pixels wide, {path.stat().st_size / 1e6:.0f} MB")
        watch = Watch()
        start, before = time.perf_counter(), sum(os.times()[:4])
        segments = generator.caption_video(path)
        wall, processor = time.perf_counter() - start, sum(os.times()[:4]) - before
        watch.stop()
    print(f"{len(segments)} segments, {options.seconds / SHOT:.0f} shots")
    print(f"wall time {wall:.1f} s: {wall / options.seconds:.2f} of the clip; load average {os.getloadavg()[0]:.1f}")
    print(f"processor time {processor:.1f} s: {processor / options.seconds:.2f} of the clip, "
          f"{processor / options.seconds / CPU_COUNT:.2f} on each of {CPU_COUNT} cores")  # fmt: skip
    quarter = len(watch.sizes) // 4
    print(f"memory of the reading process: at most {max(watch.sizes[quarter : 2 * quarter]) / 1e6:.0f} MB "
          f"in the second quarter, {max(watch.sizes[-quarter:]) / 1e6:.0f} MB in the last")  # fmt: skip


class Watch:
    """Notes the memory of the process that reads the clip, ten times a second."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stopped.wait(0.1):
            for child in psutil.Process().children():
                try:
                    if "video_process" in " ".join(child.cmdline()):
                        self.sizes.append(child.memory_info().rss)
                except psutil.Error:
                    continue

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


if __name__ == "__main__":
    main()
