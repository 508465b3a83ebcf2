"""The training log."""

import json
import subprocess
from pathlib import Path

from captioning.training.log import LIBRARIES, _commit, stage_table, write_training_log


def test_the_log_has_settings_versions_and_every_epoch(tmp_path):
    stages = {"teacher forcing": {"loss": [3.0, 2.0], "val_CIDEr": [10.0, 20.0]}, "self-critical": {"loss": [1.0]}}
    write_training_log(tmp_path, {"EPOCHS": 2, "DATASET": Path("data")}, stages)
    log = json.loads((tmp_path / "training.json").read_text())
    assert set(log["versions"]) == set(LIBRARIES)
    assert log["settings"] == {"EPOCHS": 2, "DATASET": "data"}
    assert log["stages"]["teacher forcing"] == [{"loss": 3.0, "val_CIDEr": 10.0}, {"loss": 2.0, "val_CIDEr": 20.0}]
    assert log["stages"]["self-critical"] == [{"loss": 1.0}]
    assert log["commit"] is None or len(log["commit"].removesuffix("-dirty")) == 40


def test_stage_table():
    first = {"loss": [3.0, 2.0, 1.0], "val_CIDEr": [10.0, 20.126, 15.0], "seconds": [60.0, 30.0, 30.0]}
    table = stage_table({"decoder": first, "de decoder": {"loss": [1.0], "val_CIDEr": [5.0], "seconds": [6.0]}})
    assert table.loc["decoder"].tolist() == [3, 2, 20.13, 2.0]
    assert table.loc["de decoder"].tolist() == [1, 1, 5.0, 0.1]


def test_a_commit_is_dirty_if_code_has_changed_but_not_if_artifacts_have(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], cwd=tmp_path, check=True
        )

    assert _commit(tmp_path) is None
    for name in ("package/code.py", "artifacts/config.pkl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("old")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    (tmp_path / "artifacts" / "config.pkl").write_text("new")
    commit = _commit(tmp_path / "package")
    assert len(commit) == 40
    (tmp_path / "package" / "code.py").write_text("new")
    assert _commit(tmp_path / "package") == f"{commit}-dirty"
