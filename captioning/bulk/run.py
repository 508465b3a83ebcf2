"""A bulk run on Ray Data: the plan's parts go to actors, as long as there are parts."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from captioning import artifacts
from captioning.bulk import AGAIN, BulkError
from captioning.bulk.actor import Captioner, model_id
from captioning.bulk.shards import Shards, plan
from captioning.bulk.sources import find_sources
from captioning.cores import CPU_COUNT
from captioning.litert import no_standard_error
from captioning.text import tokenizers_from_dict

CORES = 2  # of an actor; fewer if no machine has as many


class Run:
    """Captions photos into an output. Inputs, output, model and cluster are checked before the first photo.

    Args:
        inputs: as for `find_sources`.
        output: as for `Shards`.
        model_folder: the folder of the model, the same on all machines.
        address: of a Ray cluster; without it, Ray starts on this machine.
        options: arguments of `CaptionGenerator.caption_batch`.
        cores: processor cores of an actor.

    Attributes:
        parts: what is to be done, from `plan`.
        photos: how many photos that is, or None if there are tars, which are counted when they are read.

    Raises:
        BulkError: inputs, output or cluster cannot be used.
        ArtifactError: the model cannot be used.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        output: str,
        model_folder: str,
        options: dict[str, Any],
        address: str | None = None,
        cores: int = CORES,
    ):
        artifacts.check_manifest(model_folder)
        languages = list(tokenizers_from_dict(artifacts.read_pickle(Path(model_folder) / "tokenizer.pkl")))
        language = options.get("language") or languages[0]
        if language not in languages:
            raise BulkError(f"--language {language}: the model has captions in: {', '.join(languages)}")
        self.model_folder, self.model = os.path.abspath(model_folder), model_id(model_folder)
        self.options = options | {"language": language}
        self.sources = find_sources(inputs)
        self.shards = Shards(output)
        self.mark = self.shards.open()
        self.cores, self.actors = connect(address, cores)
        self.parts = plan(self.sources, self.shards, {"model": self.model, **self.options}, self.actors)
        counts = [count for part in self.parts for count in part["photos"].to_pylist()]
        self.photos = None if None in counts else sum(counts)

    def work(self) -> Iterator[tuple[int, int]]:
        """Caption what is missing; gives, part by part, how many photos are done and how many of them have an error.

        Raises:
            BulkError: an actor cannot work, or captions are missing at the end.
        """
        if not self.parts:
            return
        actors = min(self.actors, len(self.parts))
        captions = ray.data.from_arrow(self.parts).map_batches(
            Captioner,
            fn_constructor_kwargs={
                "model_folder": self.model_folder,
                "model": self.model,
                "output": self.shards.output,
                "mark": self.mark,
                "options": self.options,
            },
            batch_size=None,  # a part
            batch_format="pyarrow",
            num_cpus=self.cores,
            compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=actors, max_size=len(self.parts)),
        )
        try:
            for row in captions.iter_rows():
                yield row["photos"], row["failed"]
        except (RayError, ValueError) as error:
            raise BulkError(f"{last_line(error)}. {AGAIN}") from error
        lost = self.sources.join(self.shards.done(), "source", join_type="left anti").num_rows
        if lost:
            raise BulkError(f"{lost} photos or archives are not in {self.shards.output}. {AGAIN}")


def connect(address: str | None, cores: int = CORES) -> tuple[int, int]:
    """Connect to a Ray cluster, or start Ray on this machine with all its cores.

    Returns an actor's cores, at most those of a machine, and how many actors there can be.

    Raises:
        BulkError: the cluster does not answer, or has no cores.
    """
    _connect(address)
    cores = min(cores, max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]))
    if not cores:
        raise BulkError("the Ray cluster has no processor cores for work: start it with --num-cpus")
    return cores, max(1, int(ray.cluster_resources()["CPU"]) // cores)


def _connect(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends statistics to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's own log files have everything
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, too
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if ray.is_initialized():
        return
    try:
        if address is None:
            with no_standard_error():
                ray.init("local", num_cpus=CPU_COUNT, include_dashboard=False, **quiet)
            return
        host, separator, port = address.rpartition("://")[2].rpartition(":")
        if separator:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        with no_standard_error():
            ray.init(address, **quiet)
    except Exception as error:  # Ray raises many kinds
        where = "Ray cannot start here" if address is None else f"the Ray cluster {address} does not answer"
        raise BulkError(f"{where}: {error}") from None


def last_line(error: Exception) -> str:
    """The last line of what Ray raises, the message of the error itself, without the name of its class."""
    lines = str(getattr(error, "cause", None) or error).split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)
    return re.sub(r"^[\w.]+: ", "", last).rstrip(".")
