"""The artifacts folder: what is missing, damaged, foreign or mixed up is found and named."""

import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, picture

from captioning.artifacts import (
    EXPORTED,
    HISTORY,
    KERAS,
    MANIFEST,
    SETTINGS,
    ArtifactError,
    check_manifest,
    read_pickle,
    update_pickle,
    write_manifest,
    write_pickle,
)
from captioning.generator import CaptionGenerator
from captioning.text import Tokenizer

SHIPPED = ROOT / "artifacts"
SERVING = (*SETTINGS, *EXPORTED)  # what captions need
TRAINING = (*SETTINGS, *KERAS, HISTORY)  # what training and export need


@pytest.fixture
def serving_folder(tmp_path):
    """The model that ships, without the Keras models and the history."""
    folder = tmp_path / "serving"
    folder.mkdir()
    for name in (*SERVING, MANIFEST):
        shutil.copy(SHIPPED / name, folder)
    return folder


@pytest.fixture
def training_folder(tmp_path):
    """A folder with Keras models only. Their content does not matter, because the manifest is checked first."""
    folder = tmp_path / "training"
    folder.mkdir()
    for name in TRAINING:
        (folder / name).write_bytes(f"content of {name}".encode())
    write_manifest(folder)
    return folder


@pytest.fixture(
    params=[(f, n) for f, names in (("serving", SERVING), ("training", TRAINING)) for n in names], ids="-".join
)
def file(request):
    """A file of a folder for serving or for training."""
    kind, name = request.param
    return request.getfixturevalue(f"{kind}_folder") / name


def vouch_for_all(folder):
    """Write a manifest for the files as they are, also where the folder has no Keras models."""
    for name in (*KERAS, HISTORY):
        if not (folder / name).exists():
            (folder / name).write_bytes(b"")
    (folder / MANIFEST).unlink()
    write_manifest(folder, exported=True)


def test_the_shipped_folder_is_complete():
    assert check_manifest(SHIPPED) is True
    check_manifest(SHIPPED, for_training=True)


def test_a_folder_without_keras_models_captions(serving_folder, generator):
    assert CaptionGenerator.load(serving_folder).caption(picture()).text == generator.caption(picture()).text


def test_missing_file(file):
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{file.name} is missing"):
        CaptionGenerator.load(file.parent)


@pytest.mark.parametrize("kind", ["serving", "training"])
def test_missing_manifest(kind, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="manifest.json is missing"):
        CaptionGenerator.load(folder)


def test_unreadable_manifest(training_folder):
    (training_folder / MANIFEST).unlink()
    (training_folder / MANIFEST).mkdir()
    with pytest.raises(ArtifactError, match="manifest.json cannot be read: Is a directory"):
        CaptionGenerator.load(training_folder)


def test_cut_file(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=f"{file.name} has .* bytes instead of"):
        CaptionGenerator.load(file.parent)


def test_one_flipped_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file.name} does not match its checksum"):
        CaptionGenerator.load(file.parent)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"config.pkl": 3}'])
def test_damaged_manifest(training_folder, text):
    (training_folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="manifest.json is damaged"):
        CaptionGenerator.load(training_folder)


def test_an_exported_model_that_the_manifest_does_not_list(training_folder):
    for name in EXPORTED:
        shutil.copy(SHIPPED / name, training_folder)
    with pytest.raises(ArtifactError, match="encoder.tflite is not listed in manifest.json"):
        CaptionGenerator.load(training_folder)
    check_manifest(training_folder, for_training=True)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_model_of_another_keras_model(training_folder, name):
    for exported in EXPORTED:
        shutil.copy(SHIPPED / exported, training_folder)
    write_manifest(training_folder, exported=True)
    assert check_manifest(training_folder) is True
    (training_folder / EXPORTED[name]).write_bytes(b"trained again")
    write_manifest(training_folder)
    message = f"{name} was exported from another {EXPORTED[name]}. Export it again: python -m captioning.network.export"
    with pytest.raises(ArtifactError, match=message):
        CaptionGenerator.load(training_folder)
    check_manifest(training_folder, for_training=True)


def test_manifest_of_an_incomplete_folder(training_folder):
    (training_folder / HISTORY).unlink()
    with pytest.raises(ArtifactError, match="history.pkl is missing"):
        write_manifest(training_folder)


@pytest.mark.parametrize("name", SERVING)
@pytest.mark.parametrize("content", [b"", b"something else altogether"])
def test_foreign_file_that_the_manifest_lists(serving_folder, name, content):
    (serving_folder / name).write_bytes(content)
    vouch_for_all(serving_folder)
    with pytest.raises(ArtifactError, match=name):
        CaptionGenerator.load(serving_folder)


def test_tokenizer_of_another_model_that_the_manifest_lists(serving_folder):
    write_pickle(serving_folder / "tokenizer.pkl", Tokenizer.fit(["a black cat sleeps all day"], 1).to_dict())
    with pytest.raises(ArtifactError, match="tokenizer.pkl"):
        CaptionGenerator.load(serving_folder)
    vouch_for_all(serving_folder)
    with pytest.raises(ArtifactError, match="tokenizer.pkl .* different sizes"):
        CaptionGenerator.load(serving_folder)


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder .*nowhere"):
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


@pytest.mark.parametrize("protocol", [4, 5])
def test_builtins_survive(protocol, tmp_path):
    value = {"a": [1, 2.5, "x", None, True, (1,), {3}, frozenset("b"), b"c"]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickle(tmp_path / "x.pkl") == value


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


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [1, 7, 20])
def test_a_killed_writer_leaves_a_whole_file(milliseconds, tmp_path):
    """Slow: it starts and kills nine processes."""
    path = tmp_path / "state.pkl"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(milliseconds / 1000)
            writer.kill()
        values = read_pickle(path)
        assert len(values) == 300_000 and len(set(values)) == 1


def test_a_pickle_that_has_the_entries_stays(tmp_path):
    path = tmp_path / "config.pkl"
    update_pickle(path, {"grid": [7, 7]})
    write_pickle(path, {"grid": [7, 7], "confidence": {"en": [1.0, 0.0]}})
    update_pickle(path, {"grid": [7, 7]})
    assert read_pickle(path) == {"grid": [7, 7], "confidence": {"en": [1.0, 0.0]}}
    for entries in ({"grid": [8, 8]}, {"seed": 0}):
        update_pickle(path, entries)
        assert read_pickle(path) == entries
    path.write_bytes(b"damaged")
    update_pickle(path, {"seed": 0})
    assert read_pickle(path) == {"seed": 0}
