"""The memory of one training worker on a data set of COCO's size.

    python benchmarks/training_memory.py [--images 120000] [--kind self-critical]

Features are a sparse file of zeros, so it needs no disk space; captions are random words, as frequent as in English. It
reads an epoch's captions and features as training does, takes some real steps, and prints the memory of the process:
its own, and what it maps of files (libraries).
"""

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from captioning.artifacts import write_pickle
from captioning.network.backend import training_precision
from captioning.network.decoder import build_decoder
from captioning.text import Tokenizer
from captioning.training.features import load_features
from captioning.training.self_critical import SelfCriticalTraining
from captioning.training.teacher_forcing import Training

REGIONS, DEPTH, CAPTIONS, WORDS, VOCABULARY, BATCH = 49, 2048, 5, 11, 10_000, 20
KINDS = {"forcing": Training, "self-critical": SelfCriticalTraining}


def memory(key: str) -> float:
    """A value of /proc/self/status in GB: RssAnon, RssFile, VmHWM (the highest in all)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000, help="training images (default: 120000)")
    parser.add_argument("--kind", choices=KINDS, default="forcing", help="of training (default: forcing)")
    parser.add_argument("--steps", type=int, default=20, help="real steps (default: 20)")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    names = [f"COCO_train2014_{i:012}.jpg" for i in range(options.images)]

    vocabulary = np.array([f"word{i}" for i in range(VOCABULARY)])
    words = vocabulary[random.zipf(1.3, (len(names), CAPTIONS, WORDS)) % VOCABULARY]
    captions = {name: [" ".join(text) for text in texts] for name, texts in zip(names, words)}
    del words
    tokenizer = Tokenizer.fit((text for texts in captions.values() for text in texts), minimum_count=5)
    peak = {"RssAnon": 0.0, "RssFile": 0.0}

    def report(what):
        for key in peak:
            peak[key] = max(peak[key], memory(key))
        print(f"{memory('RssAnon'):6.2f} GB own, {memory('RssFile'):6.2f} GB mapped: {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.pkl"
        np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", "float16", (len(names), REGIONS, DEPTH)).flush()
        rows = {name: i for i, name in enumerate(names)}
        fingerprint = {"bytes": [(name, 1) for name in names], "weights": 0}
        index = {"fingerprint": fingerprint, "array": "features.npy", "rows": rows, "failed": {}, "done": len(names)}
        write_pickle(path, index)
        report(f"{len(captions):,} photos with {CAPTIONS} captions each, {len(tokenizer):,} words")
        decoder = build_decoder("attention", len(tokenizer), REGIONS, DEPTH, units=512, precision=training_precision())
        some = dict(islice(captions.items(), 1))  # for validation
        training = KINDS[options.kind](
            decoder, tokenizer, captions, some, Path(folder) / "run", epochs=1, features=load_features(path),
            batch_size=BATCH,
        )  # fmt: skip
        report("training is set up")
        start = time.perf_counter()
        for step, batch in enumerate(islice(training.batches(0), options.steps)):
            training._step(*batch)
            report(f"step {step + 1}") if step % 10 == 9 else None
        print(f"{(time.perf_counter() - start) / options.steps:.2f} s a step, compilation included")
        random = np.random.default_rng(0)
        for number, position in enumerate(range(0, len(names), BATCH)):  # as an epoch of steps reads them
            training._choose_views(names[position : position + BATCH], random)
            if number % 1000 == 999:
                report(f"features of {position + BATCH:,} photos read")
    print(f"peak: {peak['RssAnon']:.2f} GB own, {memory('VmHWM'):.2f} GB with mapped files")


if __name__ == "__main__":
    main()
