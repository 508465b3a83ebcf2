"""Measure bulk captions on Ray against the plain command line, and how the cost grows with the number of photos.

    python benchmarks/bulk.py [--photos 200 1000] [--rounds 3] [--from FOLDER] [--only TEXT] [--unreadable]

Prints a Markdown table. The commands take turns, so that other load on the machine meets all of them. A photo's cost is
that of the larger folder less that of the smaller one, by the difference in photos: without the start. Processor time
is less disturbed by other load than time. The model is that in `artifacts/` (or `ARTIFACTS_DIR`). With `--unreadable`,
the files are no photos, so that only the cost of everything but the model is measured. With `--from`, they are links
to the JPEG files of a folder on the same disk, again and again; otherwise they are drawn. `--only` measures those
commands whose name contains a text, such as "one actor".
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
MODEL = os.environ.get("ARTIFACTS_DIR", str(ROOT / "artifacts"))

BULK = """
import sys
from captioning.bulk.run import Run
folder, output, model, cores = sys.argv[1:]
for _ in Run([folder], output, model, {"beam_width": 3}, cores=int(cores)).work():
    pass
"""


def draw(folder: Path, photos: int, unreadable: bool, source: Path | None) -> None:
    """Links to the photos of ``source``, pictures of 500 × 375 pixels and about 60 KB, or files that are none."""
    folder.mkdir()
    if source:
        for i, path in enumerate(itertools.islice(itertools.cycle(sorted(source.glob("*.jpg"))), photos)):
            os.link(path, folder / f"{i:06}.jpg")
        return
    random = np.random.default_rng(0)
    for i in range(photos):
        if unreadable:
            (folder / f"{i:06}.jpg").write_bytes(b"no photo")
            continue
        blots = Image.fromarray(random.integers(0, 256, (75, 100, 3), np.uint8)).resize((500, 375))
        blots.save(folder / f"{i:06}.jpg", quality=90)


def commands(folder: Path, output: str, unreadable: bool) -> dict[str, list[str]]:
    bulk = [sys.executable, "-c", BULK, str(folder)]
    plain = {
        "`generate_captions.py`": [sys.executable, "generate_captions.py", str(folder), "--output", f"{output}/plain"],
    }
    return ({} if unreadable else plain) | {
        "bulk, one actor with two cores": [*bulk, f"{output}/one", MODEL, "2"],
        "bulk, two actors with one core": [*bulk, f"{output}/two", MODEL, "1"],
    }


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds of all processes, and the most memory of a process in MB."""
    start, times, memory = time.perf_counter(), {}, 0.0
    process = psutil.Popen(command, cwd=ROOT)
    while process.poll() is None:
        for one in [process, *process.children(recursive=True)]:
            try:
                times[one.pid, one.create_time()] = sum(one.cpu_times()[:2])
                memory = max(memory, one.memory_info().rss / 1e6)
            except psutil.Error:  # it ended meanwhile
                continue
        time.sleep(0.2)
    assert process.returncode == 0, f"{command} failed"
    return time.perf_counter() - start, sum(times.values()), memory


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure bulk captions.")
    parser.add_argument("--photos", nargs="+", type=int, default=[200, 1000], help="of the folders, the fewest first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unreadable", action="store_true", help="files that are no photos")
    parser.add_argument("--from", dest="source", type=Path, help="a folder with JPEG files")
    parser.add_argument("--only", default="", help="part of a command's name")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.source and options.source.parent) as temporary:
        for photos in options.photos:
            draw(Path(temporary, str(photos)), photos, options.unreadable, options.source)
        for photos, _ in tqdm([(p, r) for r in range(options.rounds) for p in options.photos], unit="round"):
            with tempfile.TemporaryDirectory() as output:
                for name, command in commands(Path(temporary, str(photos)), output, options.unreadable).items():
                    if options.only not in name:
                        continue
                    seconds, processor, memory = measure(command)
                    tqdm.write(f"{name}, {photos} photos: {seconds:.1f} s, {processor:.1f} s of processors", sys.stderr)
                    found.setdefault((name, photos), []).append((seconds, processor, memory))
    print("| | photos | seconds | processor seconds | ms a photo | processor ms a photo | most memory |")
    print("|---|---|---|---|---|---|---|")
    before: dict[str, tuple[float, float, int]] = {}
    for (name, photos), runs in sorted(found.items(), key=lambda item: item[0]):
        wall, cpu, memory = (statistics.median(values) for values in zip(*runs))
        each = " | "
        if name in before:
            start, start_cpu, fewer = before[name]
            each = " | ".join(f"{1000 * d / (photos - fewer):.1f}" for d in (wall - start, cpu - start_cpu))
        before[name] = (wall, cpu, photos)
        print(f"| {name} | {photos} | {wall:.1f} | {cpu:.1f} | {each} | {memory:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
