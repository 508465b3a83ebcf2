"""How many processor cores this process may use."""

import contextlib
import math
import os
from pathlib import Path


def count_cores() -> int:
    """The cores that this process may use: of its machine or container (control groups, version 2), and at most
    ``OMP_NUM_THREADS``, the usual limit where several processes share a machine. Ray sets it for its actors.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(KeyError, ValueError):
        count = min(count, max(1, int(os.environ["OMP_NUM_THREADS"])))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return count


CPU_COUNT = count_cores()
