"""Bulk captions on real Ray: a cluster of two nodes, and this machine alone.

Slow: Ray starts many processes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from helpers import ROOT, broken, picture, wait_until
from scenes import draw_dataset

from captioning import artifacts

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="needs requirements-cluster.txt")
import pandas  # noqa: E402

pytestmark = pytest.mark.slow


RAY = {  # by default, Ray's processes give way to all others, and a node that is gone is noticed after 14 s
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def bulk(*arguments, environment=()):
    command = [sys.executable, "-m", "captioning.bulk", *map(str, arguments)]
    environment = os.environ | RAY | dict(environment)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process, code):
    errors = process.communicate(timeout=500)[1]
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return errors


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """80 readable pictures, one broken one, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i in range(80):
        (folder / ("more" if i % 3 else "") / f"{i}.jpg").write_bytes(picture(i, (300, 200), "JPEG"))
    broken().save(folder / "z.jpg")
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """What the plain command line says: path → row."""
    file = tmp_path_factory.mktemp("plain") / "captions.json"
    command = [sys.executable, ROOT / "generate_captions.py", photos, "--format", "json", "--output", file]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 1
    return {row["image"]: row for row in json.loads(file.read_text())}


def assert_each_once(output, expected):
    rows = pandas.read_parquet(output / "captions.parquet")
    assert sorted(rows["path"]) == sorted(expected), "each photo exactly once"
    for row in rows.to_dict("records"):
        plain = expected[row["path"]]
        assert row["error"] == plain["error"] if "error" in plain else row["caption"] == plain["caption"]
        assert "error" in plain or row["probability"] == pytest.approx(plain["probability"], rel=1e-3)


@pytest.fixture
def cluster(monkeypatch):
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def actors():
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            found += [process] if "Captioner" in " ".join(process.cmdline()) else []
    return found


def test_an_actor_and_a_node_are_killed(cluster, photos, expected, tmp_path):
    """On a cluster of two nodes."""
    run = bulk(photos, "--output", tmp_path, "--address", cluster.address, "--format", "coco")
    shards = tmp_path / "captions.parquet"
    wait_until(lambda: len(actors()) == 2 and list(shards.glob("*.parquet")), 300)
    os.kill(actors()[0].pid, signal.SIGKILL)
    done = len(list(shards.glob("*.parquet")))
    wait_until(lambda: len(list(shards.glob("*.parquet"))) > done, 300)
    assert len(list(shards.glob("*.parquet"))) < 5, "it is killed on the way"
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert "1 of 81 photos" in finish(run, 1)
    assert_each_once(tmp_path, expected)
    assert len(json.loads((tmp_path / "captions.coco.json").read_text())) == 80


def test_features_are_those_of_notebook_01(generator, tmp_path, monkeypatch):
    """The exported encoder that ships is the other conversion of the same weights."""
    from captioning.network.encoder import Encoder
    from captioning.training.datasets import load_dataset
    from captioning.training.features import extract_features

    scenes = draw_dataset(tmp_path / "scenes", images=40)
    broken().save(scenes / "Flicker8k_Dataset" / "scene_0007.jpg")
    weights = str(ROOT / "artifacts" / "encoder.weights.h5")
    run = bulk(scenes, "--features", "--output", tmp_path / "ray", environment={"ENCODER_WEIGHTS": weights})
    assert "39 photos encoded, 1 could not be read" in finish(run, 0)
    monkeypatch.setattr("captioning.training.features.quantized_encoder", lambda _: generator.encode)
    plain = extract_features(Encoder("resnet50", weights), load_dataset(scenes).image_paths, tmp_path / "features.pkl")
    assert artifacts.read_pickle(tmp_path / "ray" / "features.pkl") == artifacts.read_pickle(tmp_path / "features.pkl")
    np.testing.assert_allclose(np.load(tmp_path / "ray" / "features.npy"), plain.array, rtol=1e-2, atol=1e-2)
