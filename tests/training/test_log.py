"""The training log."""

import json
from pathlib import Path

from captioning.training.log import LIBRARIES, write_training_log


def test_the_log_has_settings_versions_and_every_epoch(tmp_path):
    stages = {"teacher forcing": {"loss": [3.0, 2.0], "val_CIDEr": [10.0, 20.0]}, "self-critical": {"loss": [1.0]}}
    write_training_log(tmp_path, {"EPOCHS": 2, "DATASET": Path("data")}, stages)
    log = json.loads((tmp_path / "training.json").read_text())
    assert set(log["versions"]) == set(LIBRARIES)
    assert log["settings"] == {"EPOCHS": 2, "DATASET": "data"}
    assert log["stages"]["teacher forcing"] == [{"loss": 3.0, "val_CIDEr": 10.0}, {"loss": 2.0, "val_CIDEr": 20.0}]
    assert log["stages"]["self-critical"] == [{"loss": 1.0}]
    assert log["commit"] is None or len(log["commit"].removesuffix("-dirty")) == 40
