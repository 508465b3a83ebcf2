import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from captioning import artifacts
from captioning.artifacts import SHIPPED, ArtifactError, read_pickle, write_pickle
from captioning.network.decoder import build_decoder
from captioning.encoder import Encoder
from captioning.text import Tokenizer
from generate_captions import CaptionGenerator

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole, tiny, untrained model."""
    folder = tmp_path_factory.mktemp("artifacts")
    save(folder, ["a dog runs"])
    return folder


def save(folder, captions):
    tokenizer = Tokenizer.fit(captions, 1)
    encoder = Encoder("resnet50", image_size=32)
    decoder = build_decoder("attention", len(tokenizer), encoder.regions, encoder.depth, units=8)
    config = {"max_length": 5, "length_power": 0.7}
    artifacts.save(folder, encoder, decoder, tokenizer, {"loss": [1.0]}, config)


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "artifacts")
    return tmp_path / "artifacts"


def test_saved_and_loaded_it_captions(saved):
    generator = CaptionGenerator.load(saved)
    assert generator.config["decoder"] == "attention"
    assert set(generator.caption(np.zeros((40, 30, 3), "uint8")).text.split()) <= {"a", "dog", "runs"}


@pytest.mark.parametrize("name", [*SHIPPED, "manifest.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}.*missing.*"):
        CaptionGenerator.load(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_cut_file(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=name):
        CaptionGenerator.load(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_one_flipped_bit(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=name):
        CaptionGenerator.load(folder)


def test_damaged_manifest(folder):
    for text in ("", "[]", "{", '{"config.pkl": 3}'):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match="manifest.json"):
            CaptionGenerator.load(folder)


def test_files_of_two_models_mixed(folder, tmp_path):
    save(tmp_path / "other", ["a black cat sleeps all day"])
    shutil.copy(tmp_path / "other" / "tokenizer.pkl", folder)
    with pytest.raises(ArtifactError, match="tokenizer.pkl"):
        CaptionGenerator.load(folder)
    artifacts.write_manifest(folder)  # even with a manifest that vouches for the mixture
    with pytest.raises(ArtifactError, match="different sizes"):
        CaptionGenerator.load(folder)


@pytest.mark.parametrize("name", ["model.keras", "encoder.weights.h5", "tokenizer.pkl", "config.pkl"])
def test_foreign_file_with_a_manifest_that_vouches_for_it(folder, name):
    (folder / name).write_bytes(b"something else altogether")
    artifacts.write_manifest(folder)
    with pytest.raises(ArtifactError, match=name):
        CaptionGenerator.load(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        CaptionGenerator.load(tmp_path / "nowhere")


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("attack", [
    Malicious(os.system, "touch attacked"),
    Malicious(eval, "open('attacked', 'w')"),
    Malicious(getattr, "", "join"),
    Malicious(np.load, "attacked", None, True),
    {"hidden": [Malicious(os.mkdir, "attacked")]},
])  # fmt: skip
def test_malicious_pickles_are_refused_before_they_run(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(attack))
    with pytest.raises(ArtifactError, match="evil.pkl"):
        read_pickle(tmp_path / "evil.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pkl"]


@pytest.mark.parametrize("protocol", (4, 5))
def test_builtins_and_arrays_come_back(protocol, tmp_path):
    value = {"a": [1, 2.5, "x", None, True, (1,), {3}], "array": np.arange(6, dtype="float16").reshape(2, 3)}
    value["scalar"] = np.float32(3)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    back = read_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(back.pop("array"), value.pop("array"))
    assert back == value


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_pickle(tmp_path / "x.pkl", "old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_pickle(tmp_path / "x.pkl", "new")
    assert read_pickle(tmp_path / "x.pkl") == "old"


WRITER = """
import sys
from captioning.artifacts import write_pickle

for n in range(10**9):
    write_pickle(sys.argv[1], [n] * 300_000)
    print(n, flush=True)
"""


@pytest.mark.parametrize("milliseconds", [1, 7, 20])
def test_a_killed_writer_leaves_a_whole_file(milliseconds, tmp_path):
    path = tmp_path / "state.pkl"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(milliseconds / 1000)
            writer.kill()
        values = read_pickle(path)
        assert len(values) == 300_000 and len(set(values)) == 1
