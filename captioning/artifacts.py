"""The only place that reads or writes the artifacts folder; what it reads, it checks first."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import pickle
from pathlib import Path
from typing import Any

SHIPPED = (
    "tokenizer.pkl",
    "config.pkl",
    "model.keras",
    "encoder.weights.h5",
    "history.pkl",
)
MANIFEST = "manifest.json"
REMEDY = "get a fresh copy of the folder (git checkout artifacts) or run notebooks 01 and 02 again"

# What NumPy's arrays and scalars need to be unpickled; nothing here can call anything else.
ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}


class ArtifactError(ValueError):
    """A file of the artifacts folder is missing, cut, foreign or does not fit the others."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a file of ours never does")
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of builtins and NumPy arrays.

    Anything else in it, such as a function to call, is refused before it
    runs. Raises ArtifactError, naming the file, for whatever goes wrong.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: {REMEDY}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ArtifactError(f"{path} cannot be read ({error}): {REMEDY}") from None


def write_pickle(path: str | Path, value: Any) -> None:
    """Write builtins and NumPy arrays; readers see the old file or the new one, never half of it."""
    write_bytes(path, pickle.dumps(value, protocol=4))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file in one step: beside it first, then renamed over it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path) -> None:
    """Record size and SHA-256 of every file that ships."""
    folder = Path(folder)
    entries = {}
    for name in SHIPPED:
        if not (folder / name).exists():
            raise ArtifactError(f"{folder / name} is missing: run notebooks 01 and 02")
        entries[name] = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    write_bytes(folder / MANIFEST, (json.dumps(entries, indent=2) + "\n").encode())


def check_manifest(folder: str | Path) -> None:
    """Compare the folder with its manifest. Raises ArtifactError naming the first file that differs."""
    folder = Path(folder)
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (int(entries[name]["size"]), str(entries[name]["sha256"])) for name in SHIPPED}
    except FileNotFoundError:
        raise ArtifactError(f"{folder / MANIFEST} is missing: {REMEDY}") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{folder / MANIFEST} is damaged: {REMEDY}") from None
    for name, (size, checksum) in expected.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: {REMEDY}")
        if path.stat().st_size != size:
            raise ArtifactError(f"{path} has {path.stat().st_size} bytes instead of {size}: {REMEDY}")
        if sha256(path) != checksum:
            raise ArtifactError(f"{path} is not the file that was trained with the others: {REMEDY}")


def save(folder: str | Path, encoder, decoder, tokenizer, history: dict, config: dict) -> None:
    """Write all that ships, and the manifest last.

    Args:
        config: what else to remember of the run (data set, minimum count, …);
            what is needed to rebuild the model and the library versions are added.
    """
    import keras

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_pickle(folder / "tokenizer.pkl", tokenizer.to_dict())
    write_pickle(folder / "history.pkl", history)
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")}
    described = {
        "encoder": encoder.network,
        "image_size": encoder.image_size,
        "grid": list(encoder.grid),
        "depth": encoder.depth,
        "decoder": decoder.name,
        "vocabulary_size": len(tokenizer),
        "versions": versions,
    }
    write_pickle(folder / "config.pkl", {**config, **described})
    encoder.save(folder / "encoder.weights.h5")
    keras.saving.save_model(decoder, folder / "model.keras")
    write_manifest(folder)


def load(folder: str | Path) -> tuple:
    """Read encoder, decoder, tokenizer and config, checked against the manifest and each other.

    Raises ArtifactError, naming the file, when anything is missing, damaged or does not fit.
    """
    import keras

    from captioning import decoder as _  # registers the decoders' classes
    from captioning.encoder import Encoder
    from captioning.text import Tokenizer

    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}: {REMEDY}")
    check_manifest(folder)
    config = read_pickle(folder / "config.pkl")
    path = folder / "tokenizer.pkl"
    try:
        tokenizer = Tokenizer.from_dict(read_pickle(path))
        path = folder / "model.keras"
        decoder = keras.saving.load_model(path, compile=False, safe_mode=True)
        path = folder / "encoder.weights.h5"
        encoder = Encoder(config["encoder"], path, config["image_size"])
        path = folder / "config.pkl"
        if len(tokenizer) != decoder.vocabulary_size or encoder.regions != decoder.regions:
            raise ValueError("encoder, decoder and vocabulary have different sizes")
        config["max_length"], config["length_power"]
    except ArtifactError:
        raise
    except Exception as error:  # Keras raises many kinds for a file that is not what it expects
        raise ArtifactError(f"{path} cannot be used ({error}): {REMEDY}") from None
    return encoder, decoder, tokenizer, config
