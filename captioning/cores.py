"""How many processor cores this process may use."""

import contextlib
import math
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")


def count_cores() -> int:
    """The cores that this process may use: of its machine or container (control groups, version 1 or 2), and at most
    ``OMP_NUM_THREADS``, the usual limit where several processes share a machine. Ray sets it for its actors.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(KeyError, ValueError):
        count = min(count, max(1, int(os.environ["OMP_NUM_THREADS"])))
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        return _limit(count, *(GROUP / "cpu.max").read_text().split())
    with contextlib.suppress(OSError, ValueError):
        return _limit(count, *((GROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")))
    return count


def _limit(count: int, quota: str, period: str) -> int:
    return min(count, math.ceil(int(quota) / int(period))) if int(quota) > 0 else count  # -1: no limit


CPU_COUNT = count_cores()
