"""What a Ray actor does: it holds a `CaptionGenerator` and captions one part of the photos after the other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from captioning.artifacts import sha256
from captioning.bulk import BulkError, shards, sources
from captioning.cores import CPU_COUNT
from captioning.generator import NO_CAPTION, SEARCH_BATCH, CaptionGenerator
from captioning.image_workers import ImageWorkers
from captioning.images import ImageError, Photo
from captioning.litert import parallel_map

FETCHERS = 8 * CPU_COUNT  # files that are fetched at a time: from S3, each takes a while

Read = Photo | ImageError | OSError
Reading = tuple[str, str, Future[Read]]  # source, path and pixels


class Captioner:
    """Captions parts of a plan and writes the shard of each.

    Its processor cores are those that Ray gives it, through ``OMP_NUM_THREADS`` (see `captioning.cores.count_cores`).

    Args:
        model_folder: the folder of the model on this machine.
        model: `model_id` of the right one.
        output: as for `shards.Shards`.
        mark: from `shards.Shards.open`.
        options: arguments of `CaptionGenerator.caption_batch`.

    Raises:
        ArtifactError, BulkError: this machine has no model, another one, or does not see the output.
    """

    def __init__(self, model_folder: str, model: str, output: str, mark: str, options: dict[str, Any]):
        files, place = sources.locate(mark)
        if files.get_file_info(place).type != pyarrow.fs.FileType.File:
            raise BulkError(f"{output} is not the same folder on all machines: use a shared folder or s3://…")
        self.generator = CaptionGenerator.load(model_folder)
        if model_id(model_folder) != model:
            raise BulkError(f"{model_folder} holds another model on this machine than where the run was started")
        self.model, self.options, self.shards = model, options, shards.Shards(output)
        self.workers = ImageWorkers()
        self.fetchers = ThreadPoolExecutor(FETCHERS, "fetch")

    def __call__(self, part: pa.Table) -> pa.Table:
        """Caption a part of `shards.plan`; returns one row with the counts ``photos`` and ``failed``."""
        versions = dict(zip(part["source"].to_pylist(), part["version"].to_pylist(), strict=True))
        rows = list(chain.from_iterable(parallel_map(partial(self._caption, versions), self._read_ahead(part))))
        for row in rows:  # only now it is known which sources could be read to their end
            row["version"] = versions[row["source"]]
        self.shards.write(part["shard"][0].as_py(), pa.Table.from_pylist(rows, shards.SCHEMA))
        return pa.table({"photos": [len(rows)], "failed": [sum(row["error"] is not None for row in rows)]})

    def _read_ahead(self, part: pa.Table) -> Iterator[list[Reading]]:
        """Batches of photos that are being read."""
        readings = (
            (source, path, self.fetchers.submit(self._read, content)) for source, path, content in _contents(part)
        )
        while batch := list(islice(readings, SEARCH_BATCH)):
            yield batch

    def _read(self, content: sources.Content) -> Read:
        if isinstance(content, (ImageError, OSError)):
            return content
        try:
            data = content if isinstance(content, bytes) else content()
            return self.workers.read(data, size=self.generator.config["image_size"])
        except (ImageError, OSError) as error:
            return error

    def _caption(self, versions: dict[str, str | None], batch: list[Reading]) -> list[dict]:
        """The rows of a batch. The version of a source that could not be opened becomes null."""
        photos = [future.result() for *_, future in batch]
        images = [photo.image for photo in photos if isinstance(photo, Photo)]
        alternatives = self.options["beam_width"]
        captions = iter(self.generator.caption_batch(images, alternatives=alternatives, **self.options))
        rows = []
        for (source, path, _), photo in zip(batch, photos, strict=True):
            row = {"path": path, "source": source, "model": self.model, "error": None, **self.options}
            if isinstance(photo, Photo):
                caption = next(captions)
                row |= {"width": photo.width, "height": photo.height}
                if caption.text:
                    row |= caption.to_dict()
                    row["alternatives"] = [alternative.to_dict() for alternative in caption.alternatives]
                else:
                    row["error"] = NO_CAPTION
            else:
                row["error"] = str(photo)
                if isinstance(photo, OSError):
                    versions[source] = None
            rows.append(row)
        return rows


def model_id(folder: str) -> str:
    """Names a model: the start of the SHA-256 of its manifest."""
    return sha256(Path(folder) / "manifest.json")[:12]


def _contents(part: pa.Table) -> Iterator[tuple[str, str, sources.Content]]:
    """Source, path and content of each photo. A source that fails is one more row with an error."""
    for source, kind in zip(part["source"].to_pylist(), part["kind"].to_pylist(), strict=True):
        try:
            for path, content in sources.read_source(source, kind):
                yield source, path, content
        except (OSError, ImageError) as error:
            yield source, source, error
