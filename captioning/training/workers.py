"""Training on several workers: each takes its part of every batch, and their gradients are averaged (docs/scale.md).

    python -m captioning.training.workers first:2222,second:2222 0 -p DATASET data/coco

runs notebook 02 as worker 0 of two. The workers talk by the collectives of `tf.distribute`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from captioning.training.run import ROOT, add_parameters, parameters_of, run_notebook

# TensorFlow is imported where it is used: the command line only starts a notebook, and need not hold it in memory.

NOTEBOOK = "02-model-training"
TIMEOUT = 600  # seconds that the workers wait for each other at the start
LOST = 30  # seconds after which a worker that does not answer counts as lost


class WorkerError(RuntimeError):
    """The workers cannot work together. The message says why and what to do."""


class Workers:
    """The workers of a training run, seen from one of them.

    Args:
        strategy: a `tf.distribute.MultiWorkerMirroredStrategy`; without it, there is one worker.

    Attributes:
        count: how many there are.
        index: the number of this one. Worker 0 keeps the checkpoints.
    """

    def __init__(self, strategy: Any = None, index: int = 0):
        self.strategy, self.index = strategy, index
        self.count: int = strategy.num_replicas_in_sync if strategy else 1
        if strategy:
            import tensorflow as tf

            self.sum = tf.function(self._add, autograph=False)

    def rows(self, size: int) -> list[int]:
        """This worker's rows of a batch. If there are too few, it gets the first, which must then weigh nothing."""
        return list(range(self.index, size, self.count)) or [0]

    def _add(self, tensors: Sequence) -> Sequence:
        """Add up the tensors of all workers; the result is the same on each.

        It is compiled once for each list of shapes. All workers must make the same calls in the same order.
        """
        import tensorflow as tf

        def reduce():
            return tf.distribute.get_replica_context().all_reduce("SUM", [tf.identity(t) for t in tensors])

        return self.strategy.run(reduce)

    def mean(self, tensors: Sequence, weight) -> Sequence:
        """The mean over all workers, weighted."""
        import tensorflow as tf

        *sums, total = self.sum([*(tf.convert_to_tensor(t) * weight for t in tensors), weight])
        return [t / tf.maximum(total, 1.0) for t in sums]

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of worker 0. Those of the others only have the same shapes and dtypes."""
        if self.count == 1:
            return list(arrays)
        return [self.sum([a if self.index == 0 else np.zeros_like(a)])[0].numpy() for a in arrays]  # of several dtypes

    def check_same(self, number: int, what: str) -> None:
        """Raises WorkerError if the workers have different numbers, each below 2³²."""
        if self.count > 1 and int(self.sum([np.int64(number)])[0]) != self.count * number:
            from tensorflow import errors

            with contextlib.suppress(errors.OpError):  # no worker ends before all have the first sum
                self.sum([np.int64(0)])
            raise WorkerError(f"the workers do not have the same {what}: give all the same data, settings and packages")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Turns the errors of lost workers into a WorkerError."""
        if self.count == 1:
            yield
            return
        from tensorflow import errors

        try:
            yield
        except (
            errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.InternalError
        ) as error:  # fmt: skip
            raise WorkerError("a worker was lost: start all again, and they go on after the last epoch") from error


ONE = Workers()


def connect(timeout: float = TIMEOUT) -> Workers:
    """Meet the other workers that the environment variable ``TF_CONFIG`` names; without it, there is one worker.

    Call it before anything else that uses TensorFlow.

    Raises:
        WorkerError: ``TF_CONFIG`` is wrong, the address of this worker is taken, another worker has ended, or not all
            are there after ``timeout`` seconds.
    """
    if not os.environ.get("TF_CONFIG"):
        return ONE
    addresses, index = _read_config(os.environ["TF_CONFIG"])
    if len(addresses) == 1:
        return ONE
    import tensorflow as tf

    # Only this inner function takes timeouts; by default the others are waited for without end.
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        "standalone",
        "/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(timeout * 1000),
        heartbeat_timeout_in_ms=LOST * 1000,
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=len(addresses))],
    )
    context.context().coordination_service.cluster_register_with_barrier = True
    try:
        workers = Workers(tf.distribute.MultiWorkerMirroredStrategy(), index)
        workers.sum([np.int64(1)])  # fails if others have a longer or shorter list
    except (tf.errors.OpError, RuntimeError) as error:
        if "joining a group" in str(error):
            raise WorkerError("the workers were started with lists of different lengths: give all the same") from error
        if isinstance(error, tf.errors.DeadlineExceededError):
            raise WorkerError(
                f"worker {index} did not meet all of {', '.join(addresses)} within {timeout:.0f} s: start all within "
                "this time with the same list, and let them reach these ports"
            ) from error
        raise WorkerError(
            f"worker {index} could not join the others: if another one ended with an error, fix that first; otherwise "
            f"make sure that {addresses[index]} is a free port of this machine; then start all again"
        ) from error
    return workers


def _read_config(text: str) -> tuple[list[str], int]:
    """The addresses of all workers and the number of this one. Raises WorkerError."""
    try:
        config = json.loads(text)
        (kind, addresses), *others = config["cluster"].items()
        index = int(config["task"]["index"])
        if kind != "worker" or others or not all(isinstance(address, str) for address in addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WorkerError('TF_CONFIG must be {"cluster": {"worker": [ADDRESS, …]}, "task": {…, "index": 0}}') from None
    if not all(a.rpartition(":")[0] and a.rpartition(":")[2].isdecimal() for a in addresses):
        raise WorkerError(f"{','.join(addresses)}: each worker is HOST:PORT, separated by commas")
    if len(set(addresses)) < len(addresses):
        raise WorkerError(f"{','.join(addresses)}: two workers have the same address")
    if not 0 <= index < len(addresses):
        raise WorkerError(f"there is no worker {index}: the {len(addresses)} workers are 0 to {len(addresses) - 1}")
    return addresses, index


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train as one of several workers: runs notebook 02.")
    parser.add_argument("workers", help="HOST:PORT of each worker, separated by commas, the same list on all")
    parser.add_argument("index", type=int, help="which of them this one is; worker 0 keeps the checkpoints")
    add_parameters(parser)
    options = parser.parse_args(arguments)
    task = {"type": "worker", "index": options.index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": options.workers.split(",")}, "task": task})
    try:
        _read_config(os.environ["TF_CONFIG"])
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    executed = ROOT / "data" / f"{NOTEBOOK}.{options.index}.ipynb"
    [parameters] = parameters_of(parser, options.p, [NOTEBOOK])
    return run_notebook(NOTEBOOK, executed, parameters)


if __name__ == "__main__":
    sys.exit(main())
