"""Read and write the files of the artifacts folder. What is read is checked first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

SETTINGS = ("config.pkl", "tokenizer.pkl")
HISTORY = "history.pkl"
KERAS = ("encoder.weights.h5", "model.keras")
EXPORTED = {"encoder.tflite": "encoder.weights.h5", "search.tar.xz": "model.keras"}  # file → what it was made from
MANIFEST = "manifest.json"
REMEDY = "get a fresh copy of the folder (git checkout artifacts) or run notebooks 01 and 02 again"


class ArtifactError(ValueError):
    """A file of the artifacts folder is missing, incomplete, foreign or does not fit the others."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not allowed")


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of builtins: numbers, texts, lists, dicts and the like.

    Anything else, such as a function call, is refused before it runs.

    Raises:
        ArtifactError: the file cannot be read; the message names it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ArtifactError(f"{path} cannot be read ({error}): {REMEDY}") from None


def write_pickle(path: str | Path, value: Any) -> None:
    """Write builtins to a file, which is replaced as a whole."""
    write_bytes(path, pickle.dumps(value, protocol=4))


def update_pickle(path: str | Path, entries: dict[str, Any]) -> None:
    """Write a dict to a pickle, unless the file has these entries already: then it keeps them and its others."""
    path = Path(path)
    if path.exists():
        with contextlib.suppress(ArtifactError):
            found = read_pickle(path)
            if isinstance(found, dict) and all(key in found and found[key] == entries[key] for key in entries):
                return
    write_pickle(path, entries)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, which is replaced as a whole."""
    with replace_file(path, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def replace_file(path: str | Path, mode: str) -> Iterator[IO]:
    """Open a new file that takes the place of ``path`` when the block ends.

    A reader sees the old content or the new one, never a part of it. If the block fails, the old file stays. The new
    one has its owner, group and rights, as far as the system permits.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".unfinished-{secrets.token_hex(8)}")
    try:
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")  # file names may not be UTF-8
        with temporary.open(mode, encoding=encoding, errors=errors) as file:
            _keep_owner(path, file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_owner(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # no such file; Windows has no fchown
        status = path.stat()
        for owner in (status.st_uid, -1):  # only root may change the owner
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner, status.st_gid)
                break
        if os.fstat(descriptor).st_uid == status.st_uid:  # another owner may need rights that this one had
            os.fchmod(descriptor, status.st_mode)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path, exported: bool = False) -> None:
    """Record size and SHA-256 of each file of the model, and for an exported model the SHA-256 of its source.

    The exported models are optional.

    Args:
        exported: whether the exported models were just made from the Keras models that are in the folder now.
    """
    folder = Path(folder)
    entries: dict[str, dict] = {}
    for name in (*SETTINGS, *KERAS, HISTORY, *EXPORTED):
        path = folder / name
        if path.exists():
            entries[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
        elif name not in EXPORTED:
            raise ArtifactError(f"{path} is missing: run notebooks 01 and 02")
    before = _read_manifest(folder) if (folder / MANIFEST).exists() else {}
    for name in EXPORTED.keys() & entries:
        _, _, source = before.get(name, (0, "", None))
        entries[name]["source_sha256"] = entries[EXPORTED[name]]["sha256"] if exported else source
    write_bytes(folder / MANIFEST, (json.dumps(entries, indent=2) + "\n").encode())


def check_manifest(folder: str | Path, for_training: bool = False) -> bool:
    """Compare the folder with its manifest; returns whether it holds exported models.

    Such a folder may lack the Keras models and the history, as in a container that only captions.

    Args:
        for_training: check the Keras models and leave the exported ones out.

    Raises:
        ArtifactError: a file differs, is missing, cannot be read or is not in the manifest, or an exported model was
            made from other weights than those in the manifest; the message names the file.
    """
    try:
        return _check_manifest(Path(folder), for_training)
    except OSError as error:
        raise ArtifactError(f"{error.filename} cannot be read: {error.strerror}") from None


def _check_manifest(folder: Path, for_training: bool) -> bool:
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}: check ARTIFACTS_DIR, or {REMEDY}")
    entries = _read_manifest(folder)
    exported = not for_training and any(name in entries or (folder / name).exists() for name in EXPORTED)
    required = EXPORTED if exported else (*KERAS, HISTORY)
    for name in (*SETTINGS, *required):
        if not (folder / name).is_file():
            raise _missing(folder / name)
        if name not in entries:
            raise ArtifactError(f"{folder / name} is not listed in {MANIFEST}: {REMEDY}")
    for name, (size, checksum, source_checksum) in entries.items():
        path = folder / name
        if not path.is_file() or (for_training and name in EXPORTED):
            continue
        if path.stat().st_size != size:
            raise ArtifactError(f"{path} has {path.stat().st_size} bytes instead of {size}: {REMEDY}")
        if sha256(path) != checksum:
            raise ArtifactError(f"{path} does not match its checksum in {MANIFEST}: {REMEDY}")
        source = EXPORTED.get(name)
        if source in entries and entries[source][1] != source_checksum:
            raise ArtifactError(
                f"{path} was exported from another {source}. "
                f"Export it again: python -m captioning.network.export {folder}"
            )
    return exported


def _read_manifest(folder: Path) -> dict[str, tuple[int, str, str | None]]:
    """File name → size in bytes, SHA-256, SHA-256 of what it was exported from."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {name: (int(e["size"]), str(e["sha256"]), e.get("source_sha256")) for name, e in entries.items()}
    except FileNotFoundError:
        raise _missing(folder / MANIFEST) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{folder / MANIFEST} is damaged: {REMEDY}") from None


def _missing(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} is missing: {REMEDY}")
