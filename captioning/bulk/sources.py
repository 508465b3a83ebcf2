"""Where photos come from: folders, patterns, S3 and Google Cloud Storage, tables, tars.

A source is what is opened to get photos: a photo's file, a tar, or a row group of a Parquet file. It is either done or
not done as a whole. Paths are absolute: ``/folder/a.jpg`` or ``s3://bucket/folder/a.jpg``.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from captioning.bulk import BulkError
from captioning.folders import files_below
from captioning.images import SUFFIXES, ImageError

SCHEMA = pa.schema(
    [
        ("source", pa.string()),  # its path; for a row group of a table: PATH#NUMBER
        ("kind", pa.string()),  # "photo", "tar" or "rows"
        ("version", pa.string()),  # size and time of the last change; empty if unknown
        ("photos", pa.int64()),  # null for a tar, which is not opened before its turn
    ]
)

COLUMNS = ("image", "path", "bytes", "file", "file_name", "filename", "image_path")
"""Names of a table's column with photos, in the order of preference."""

MAX_BYTES = 2**28
"""Larger files are refused: a photo of 50 million pixels has less, and a processor core holds several at a time."""

log = logging.getLogger(__name__)

Content = bytes | Callable[[], bytes] | ImageError | OSError
"""A photo's file, a function that fetches it and raises an `OSError` or `ImageError`, or the error itself."""


def find_sources(inputs: Iterable[str]) -> pa.Table:
    """All sources of some inputs, each once, sorted by path. The table has the columns of `SCHEMA`.

    Raises:
        BulkError: an input does not exist, cannot be read, or holds no photos.
    """
    found = []
    for place in inputs:
        try:
            sources = _find(place)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, BulkError) else BulkError(f"{place} cannot be read: {error}") from None
        if not sources.num_rows:
            raise BulkError(f"{place} holds no photos")
        found.append(sources)
    rest = [("kind", "min"), ("version", "max"), ("photos", "min")]  # an unknown version is the smallest
    unique = pa.concat_tables(found).group_by("source").aggregate(rest)
    return unique.rename_columns(SCHEMA.names).sort_by("source")


def read_source(source: str, kind: str) -> Iterator[tuple[str, Content]]:
    """The path and the content of each photo of a source; at least one.

    Raises:
        OSError: the source cannot be read; photos may have been given before.
        ImageError: it is damaged.
    """
    if kind == "photo":
        yield source, functools.partial(_fetch, source)
    elif kind == "rows":
        yield from _read_rows(source)
    else:
        yield from _read_tar(source)


def locate(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path, and the path in it.

    Raises:
        OSError, ValueError: there is no such file system or bucket.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return pyarrow.fs.LocalFileSystem(), path
    return _bucket(f"{scheme}://{rest.partition('/')[0]}"), rest.rstrip("/")


def absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


@functools.cache
def _bucket(address: str) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.FileSystem.from_uri(address)[0]


def _find(place: str) -> pa.Table:
    place = absolute(place)
    files, path = locate(place)
    prefix = place[: len(place.rstrip("/")) - len(path)]  # "s3://" or nothing
    info = files.get_file_info(path)
    if info.type == pyarrow.fs.FileType.Directory:
        found = [file for file in _search(files, path) if _suffix(file) in {*SUFFIXES, ".tar"}]
    elif info.type == pyarrow.fs.FileType.NotFound and (start := re.search(r"[*?\[]", path)):
        matches = re.compile(glob_translate(path)).fullmatch
        known = {*SUFFIXES, ".tar", ".parquet", ".csv"}
        found = [f for f in _search(files, path[: start.start()].rpartition("/")[0]) if matches(f.path)]
        found = [file for file in found if _suffix(file) in known]
    elif info.type == pyarrow.fs.FileType.NotFound:
        raise BulkError(f"there is no {place}")
    elif _suffix(info) not in {*SUFFIXES, ".tar", ".parquet", ".csv"}:
        raise BulkError(f"{place} is not a folder, a photo, a .tar, a .parquet or a .csv file")
    else:
        found = [info]
    tables = [file for file in found if _suffix(file) in {".parquet", ".csv"}]
    others = [file for file in found if _suffix(file) not in {".parquet", ".csv"}]
    kinds = ["tar" if _suffix(file) == ".tar" else "photo" for file in others]
    columns = [
        [prefix + file.path for file in others],
        kinds,
        [_version(file) for file in others],
        [1 if kind == "photo" else None for kind in kinds],
    ]
    return pa.concat_tables([pa.table(columns, SCHEMA), *(_read_table(prefix, file) for file in tables)])


def _search(files: pyarrow.fs.FileSystem, folder: str) -> list[pyarrow.fs.FileInfo]:
    """The files in a folder and in those below it, without hidden twins of macOS (``._a.jpg``)."""
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        found = files.get_file_info(_walk(folder or "/"))
    else:
        found = files.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return [info for info in found if info.type == pyarrow.fs.FileType.File and not info.base_name.startswith("._")]


def _walk(folder: str) -> list[str]:
    """All paths below a local folder. What is left out is reported, and does not stop the run as in pyarrow."""

    def report(error: OSError) -> None:
        log.warning("left out: %s (%s)", error.filename, error.strerror)

    found = []
    for path in files_below(folder, report, links=True):
        try:
            path.encode()
            found.append(path)
        except UnicodeEncodeError:
            log.warning("left out: %r (its name is not UTF-8)", path)
    return found


def _suffix(file: pyarrow.fs.FileInfo) -> str:
    return PurePosixPath(file.path).suffix.lower()


def _version(file: pyarrow.fs.FileInfo) -> str:
    return f"{file.size}-{file.mtime_ns}"


def _read_table(prefix: str, info: pyarrow.fs.FileInfo) -> pa.Table:
    """The sources in a table of photos."""
    files, path = locate(prefix + info.path)
    if _suffix(info) == ".csv":
        with files.open_input_stream(path) as stream, pyarrow.csv.open_csv(stream) as reader:
            column = _photo_column(path, reader.schema)
        only = pyarrow.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
        with files.open_input_stream(path) as stream:
            return _listed(prefix + path, pyarrow.csv.read_csv(stream, convert_options=only)[column])
    with pq.ParquetFile(files.open_input_file(path)) as table:
        column = _photo_column(path, table.schema_arrow)
        if _is_text(table.schema_arrow.field(column).type):
            return _listed(prefix + path, table.read([column])[column])
        counts = {i: table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)}
    counts = {group: count for group, count in counts.items() if count}
    names = [f"{prefix}{path}#{group}" for group in counts]
    return pa.table([names, ["rows"] * len(names), [_version(info)] * len(names), list(counts.values())], SCHEMA)


def _listed(table: str, paths: pa.ChunkedArray) -> pa.Table:
    """The sources for a column of paths: absolute, relative to the table's folder, or with ``s3://``.

    A photo that only a table names has no version: asking for each would take hours at a million.
    """
    folder = table.rpartition("/")[0]
    paths = pc.unique(pc.drop_null(paths))
    names = [path if "://" in path else _join(folder, path) for path in paths.to_pylist() if path]
    return pa.table([names, ["photo"] * len(names), [""] * len(names), [1] * len(names)], SCHEMA)


def _join(folder: str, path: str) -> str:
    if "://" not in folder:
        return os.path.normpath(os.path.join(folder, path))
    scheme, _, rest = folder.partition("://")
    return f"{scheme}://{os.path.normpath(os.path.join(rest, path))}"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _photo_column(table: str, schema: pa.Schema) -> str:
    for name in filter(schema.names.__contains__, COLUMNS):
        kind = schema.field(name).type
        if _is_text(kind) or pa.types.is_null(kind) or _bytes_field(kind) is not None:
            return name
    raise BulkError(
        f"{table} has no column of photos, only {', '.join(schema.names)}: "
        'rename the one with the paths or bytes of the photos to "image"'
    )


def _bytes_field(kind: pa.DataType) -> Callable[[Any], bytes | None] | None:
    """How to get the bytes of a value: it is bytes, or has a field `bytes` as in data sets of Hugging Face."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return lambda value: value
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return lambda value: value and value["bytes"]
    return None


def _fetch(path: str) -> bytes:
    try:
        files, path = locate(path)
        with files.open_input_stream(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError("The file does not exist any more, or never did.") from None
    except ValueError as error:  # such as an address that pyarrow does not know
        raise OSError(str(error)) from None
    if len(data) > MAX_BYTES:
        raise _too_large()
    return data


def _read_rows(source: str) -> Iterator[tuple[str, Content]]:
    table, _, group = source.rpartition("#")
    files, path = locate(table)
    try:
        # Without pre_buffer, a few rows are in memory at a time and not the whole group.
        with files.open_input_file(path) as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**20) as file:
            column = _photo_column(table, file.schema_arrow)
            content = _bytes_field(file.schema_arrow.field(column).type)
            assert content
            batches = file.iter_batches(batch_size=16, row_groups=[int(group)], columns=[column])
            rows = (value for batch in batches for value in batch.column(0))
            for number, value in enumerate(rows):
                data = content(value.as_py())
                yield f"{source}/{number}", data if data is not None else ImageError("The row holds no photo.")
    except ValueError as error:  # pyarrow's for broken content
        raise ImageError(f"The table is damaged: {error}") from None


def _read_tar(source: str) -> Iterator[tuple[str, Content]]:
    files, path = locate(source)
    seen = set()
    try:
        with files.open_input_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                photo = PurePosixPath(member.name)
                is_photo = photo.suffix.lower() in SUFFIXES and not photo.name.startswith("._")  # of macOS
                if member.isfile() and is_photo and name not in seen:
                    seen.add(name)
                    if member.size > MAX_BYTES:
                        yield f"{source}/{name}", _too_large()
                    elif file := archive.extractfile(member):
                        yield f"{source}/{name}", file.read()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ImageError(f"The archive is damaged: {error}") from None
    if not seen:
        raise ImageError("The archive holds no photos.")


def _too_large() -> ImageError:
    return ImageError(
        f"The file is larger than {MAX_BYTES // 2**20} MB. Save a smaller copy and try again.", "too large"
    )
