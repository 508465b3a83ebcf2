"""The captions of a bulk run: Parquet files, each written in one step, which are also the record of what is done.

A row names the source that it came from and the source's version. So there is no other file that could disagree: a
source is done if a shard holds it in its present version.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from captioning import artifacts
from captioning.bulk import BulkError, sources
from captioning.text import coco_image_id

CAPTION = [("caption", pa.string()), ("probability", pa.float64()), ("confidence", pa.float64())]

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        *CAPTION,  # null for a photo that has none
        ("alternatives", pa.list_(pa.struct(CAPTION))),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("model", pa.string()),
        ("beam_width", pa.int8()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("version", pa.string()),  # null if the source could not be opened: the next run tries again
    ]
)

OPTIONS = ["model", "beam_width", "language"]
"""Columns that have one value in all rows of an output."""

MAX_PHOTOS = 500  # in a shard of photos that are files
UNFINISHED = 86_400  # seconds after which a hidden file is from a run that was killed
MARK = ".shards"  # a file by which an actor knows that it sees the folder
PARTS_PER_ACTOR = 4  # at least, if there are enough photos: so that all actors end at about the same time


class Shards:
    """The folder ``captions.parquet`` in an output folder, local or ``s3://…``."""

    def __init__(self, output: str):
        self.output = sources.absolute(output).rstrip("/")
        self.folder = f"{self.output}/captions.parquet"

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}.parquet"

    def open(self) -> str:
        """Create the folder, and `MARK` in it, whose path is returned.

        Raises:
            BulkError: it cannot be written.
        """
        mark = f"{self.folder}/{MARK}"
        try:
            files, folder = sources.locate(self.folder)
            files.create_dir(folder, recursive=True)
            with _open(mark):
                pass
            for info in files.get_file_info(pyarrow.fs.FileSelector(folder)):
                if info.base_name.startswith(".") and info.base_name != MARK and _is_old(info):
                    files.delete_file(info.path)
        except (OSError, ValueError) as error:
            raise BulkError(f"cannot write to {self.output}: {error}") from None
        return mark

    def done(self) -> pa.Table:
        """What the shards hold: a row for each source and shard, with source, version, shard's name and `OPTIONS`.

        Raises:
            BulkError: the folder holds other files.
        """
        columns = ["source", "version", *OPTIONS]
        try:
            found = self._dataset()
            if not found.files:
                return pa.table({name: pa.array([], pa.string()) for name in [*columns, "shard"]})
            table = found.to_table([*columns, "__filename"])
        except (OSError, ValueError) as error:
            raise BulkError(f"{self.folder} cannot be read; choose another output: {error}") from None
        table = table.group_by([*columns, "__filename"], use_threads=False).aggregate([])
        shards = pa.array([PurePosixPath(path).stem for path in table["__filename"].to_pylist()], pa.string())
        return table.select(columns).append_column("shard", shards)

    def write(self, name: str, rows: pa.Table) -> None:
        """Write a shard in one step. Rows of an older shard of this name stay, but for the sources in ``rows``."""
        files, path = sources.locate(self.path(name))
        if files.get_file_info(path).type == pyarrow.fs.FileType.File:
            old = pq.read_table(path, filesystem=files, schema=SCHEMA)
            old = old.filter(pc.invert(pc.is_in(old["source"], rows["source"].combine_chunks())))
            rows = pa.concat_tables([old, rows])
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        with _open(self.path(name)) as file:
            file.write(buffer.getvalue())

    def delete(self, name: str) -> None:
        files, path = sources.locate(self.path(name))
        files.delete_file(path)

    def export(self, kind: str) -> str:
        """Write all rows into one file, ``captions.jsonl`` or ``captions.coco.json``; returns its path.

        Raises:
            BulkError: several photos would have the same id in COCO results.
        """
        if kind == "coco":
            self._check_ids()
        path = f"{self.output}/captions.{'coco.json' if kind == 'coco' else 'jsonl'}"
        with _open(path) as file:
            self._export(kind, file)
        return path

    def _check_ids(self) -> None:
        seen: dict[int | str, str] = {}
        for batch in self._dataset().to_batches(columns=["path", "caption"]):
            for row in batch.to_pylist():
                if row["caption"] is None:
                    continue
                other = seen.setdefault(_image_id(row["path"]), row["path"])
                if other != row["path"]:
                    raise BulkError(
                        f"--format coco: {other} and {row['path']} would have the same id. Use --format jsonl, or "
                        "give each folder an output of its own"
                    )

    def _export(self, kind: str, file: IO[bytes]) -> None:
        separator = b"["
        for batch in self._dataset().to_batches():
            for row in batch.to_pylist():
                if kind == "jsonl":
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                elif row["caption"] is not None:
                    result = {"image_id": _image_id(row["path"]), "caption": row["caption"]}
                    file.write(separator + b"\n" + json.dumps(result, ensure_ascii=False).encode())
                    separator = b","
        if kind == "coco":
            file.write(b"\n]\n" if separator == b"," else b"[]\n")

    def _dataset(self) -> pyarrow.dataset.FileSystemDataset:
        files, folder = sources.locate(self.folder)
        return pyarrow.dataset.dataset(folder, schema=SCHEMA, format="parquet", filesystem=files)


def _image_id(path: str) -> int | str:
    (name,) = re.findall(r"[^/]+(?:#\d+/\d+)?$", path)  # data.parquet#0/7 is a row
    return coco_image_id(name)


def _is_old(info: pyarrow.fs.FileInfo) -> bool:
    """Whether an unfinished file is not from a run that goes on."""
    return info.mtime_ns is not None and info.mtime_ns < time.time_ns() - UNFINISHED * 10**9


def plan(found: pa.Table, shards: Shards, options: dict[str, Any], actors: int) -> list[pa.Table]:
    """What is missing, cut into parts, each with the rows of `sources.SCHEMA` and the name of its shard.

    Sources that changed, or could not be opened, take the place of their rows in their old shard.

    Args:
        found: from `sources.find_sources`.
        options: the values of `OPTIONS`.

    Raises:
        BulkError: the shards were made by another model or with other options.
    """
    done = shards.done()
    for name, value in options.items():
        others = set(done[name].to_pylist()) - {value}
        if others:
            raise BulkError(
                f"{shards.output} holds captions with {name.replace('_', ' ')} {others.pop()}, "
                f"but this run has {value}: choose another output"
            )
    done, keys = _without_twins(done, shards), ["source", "version"]
    unknown = pc.equal(found["version"], "")  # only a table names it: done if it has been opened
    opened = done.filter(pc.is_valid(done["version"]))
    missing = pa.concat_tables(
        [
            found.filter(pc.invert(unknown)).join(opened.select(keys), keys, join_type="left anti"),
            found.filter(unknown).join(opened.select(["source"]), "source", join_type="left anti"),
        ]
    )
    missing = missing.join(done.select(["source", "shard"]), "source").sort_by("source")
    again, new = (missing.filter(mask) for mask in (pc.is_valid(missing["shard"]), pc.is_null(missing["shard"])))
    parts = [again.filter(pc.equal(again["shard"], name)) for name in pc.unique(again["shard"])]
    for part in _cut(new, actors):
        name = hashlib.sha256("\n".join(part["source"].to_pylist()).encode()).hexdigest()[:20]
        column = pa.array([name] * part.num_rows)
        parts.append(part.set_column(part.column_names.index("shard"), "shard", column))
    return parts


def _cut(new: pa.Table, actors: int) -> list[pa.Table]:
    """Neighbours, about `MAX_PHOTOS` together or fewer if there are few. A tar ends its part."""
    known = pc.sum(new["photos"]).as_py() or 0
    size = min(MAX_PHOTOS, max(20, -(-known // (actors * PARTS_PER_ACTOR))))
    photos = new["photos"].fill_null(size).to_numpy()
    parts = (np.cumsum(photos) - photos) // size
    starts = np.flatnonzero(np.diff(parts, prepend=-1))
    lengths = np.diff(starts, append=new.num_rows)
    return [new.slice(start, length) for start, length in zip(starts, lengths, strict=True) if length]


def _without_twins(done: pa.Table, shards: Shards) -> pa.Table:
    """Delete a shard that holds a source of another one: two runs wrote at once. The plan repeats what else it held."""
    counts = done.group_by("source").aggregate([("shard", "min"), ("shard", "count")])
    twins = counts.filter(pc.greater(counts["shard_count"], 1))
    if not twins.num_rows:
        return done
    pairs = done.join(twins.select(["source", "shard_min"]), "source", join_type="inner")
    surplus = pc.unique(pairs.filter(pc.not_equal(pairs["shard"], pairs["shard_min"]))["shard"])
    for name in surplus.to_pylist():
        shards.delete(name)
    return done.filter(pc.invert(pc.is_in(done["shard"], surplus)))


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    """A new file that appears in one step, unless the block fails: by renaming, or as one object."""
    files, place = sources.locate(path)
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        with artifacts.replace_file(place, "wb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:  # an open object would appear even if the block fails
        yield whole
        whole.seek(0)
        with files.open_output_stream(place) as target:
            shutil.copyfileobj(whole, target)
