"""The training log: what is needed to see how a model was made, and to make it again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from captioning import artifacts

LIBRARIES = ("tensorflow", "keras", "numpy", "pillow", "ai-edge-litert", "nltk", "pycocoevalcap")


def write_training_log(
    folder: Path, settings: Mapping[str, object], stages: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Write ``training.json``: settings, versions, git commit, and each epoch of each stage.

    Args:
        folder: the artifacts folder.
        settings: what the notebook was run with; values that JSON does not know are written as text.
        stages: stage → key → one value per epoch, as `Training.run` returns.
    """
    log = {
        "commit": _commit(Path(__file__).parent),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "settings": settings,
        "stages": {
            stage: [dict(zip(history, epoch, strict=True)) for epoch in zip(*history.values(), strict=True)]
            for stage, history in stages.items()
        },
    }
    artifacts.write_bytes(folder / "training.json", (json.dumps(log, indent=1, default=str) + "\n").encode())


def joined(stages: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, list]:
    """All epochs of all stages in one history: each key of `Training.run`, and under ``stage`` the epoch's stage."""
    together: dict[str, list] = {}
    for stage, history in stages.items():
        for key, values in {"stage": [stage] * len(history["loss"]), **history}.items():
            together.setdefault(key, []).extend(values)
    return together


def stage_table(stages: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Stages, one per row: epochs, the best epoch by validation CIDEr, its CIDEr, and minutes."""
    rows = {
        stage: {
            "epochs": len(history["loss"]),
            "best epoch": len(history["val_CIDEr"]) - int(np.argmax(history["val_CIDEr"][::-1])),  # of equals, the last
            "CIDEr": round(max(history["val_CIDEr"]), 2),
            "minutes": round(sum(history["seconds"]) / 60, 1),
        }
        for stage, history in stages.items()
    }
    return pd.DataFrame(list(rows.values()), index=list(rows))


def _commit(folder: Path) -> str | None:
    """The commit of the code in ``folder``, with ``-dirty`` if it was changed since; None outside a git repository.

    Changes in ``artifacts/`` do not count: training itself makes them.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("diff", "--name-only", "HEAD", "--", ":(top)", ":(top,exclude)artifacts")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
