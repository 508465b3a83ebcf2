"""Exported models on one core and on several."""

import numpy as np
import pytest
from helpers import ROOT

from captioning import cores
from captioning.cores import CPU_COUNT, count_cores
from captioning.exported import encoder_of
from captioning.litert import Model, make_batches, parallel_map


@pytest.mark.parametrize("number", [0, 1, 2, 5, 16, 257])
def test_batches_are_full_and_even(number):
    batches = make_batches(range(number), 5)
    assert [item for batch in batches for item in batch] == list(range(number))
    assert {len(batch) for batch in batches} <= {1, 5}
    assert sum(len(batch) == 5 for batch in batches) % CPU_COUNT == 0, "each core has the same number"
    nested = next(parallel_map(lambda _: make_batches(range(number), 5), [0, 0]))
    assert len(nested) == number // 5 + number % 5, "a worker has one core"


def test_parallel_map_inside_parallel_map_does_not_block():
    assert list(parallel_map(lambda n: sum(parallel_map(int, range(n))), [3, 4])) == [3, 6]


def test_several_photos_are_encoded_as_one_by_one():
    """Also in `parallel_map`, where each has one core."""
    encode = encoder_of(ROOT / "artifacts" / "encoder.tflite")
    photos = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), np.uint8)
    together = encode(photos)
    one_by_one = np.concatenate([encode(photos[i : i + 1]) for i in range(5)])
    in_threads = np.concatenate(list(parallel_map(encode, [photos[i : i + 1] for i in range(5)])))
    assert together.shape == (5, 49, 2048) and together.dtype == np.float32
    np.testing.assert_allclose(together, one_by_one, atol=1e-3)
    np.testing.assert_allclose(in_threads, one_by_one, atol=1e-3)


@pytest.mark.parametrize("source", [b"", b"something else", ROOT / "absent.tflite"])
def test_what_is_not_a_model_is_refused(source):
    with pytest.raises(ValueError, match=r"model|Model|file"):
        Model({1: source})


def test_the_cores_are_limited_as_usual(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert count_cores() == 1
    for nonsense in ("many", "1000", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert count_cores() == CPU_COUNT


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_the_limit_of_a_container(files, expected, tmp_path, monkeypatch):
    """Of control groups of both versions."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "GROUP", tmp_path)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert count_cores() == expected
