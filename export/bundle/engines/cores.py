"""How many cores this process may use. Runtimes start one thread per core of the machine; threads beyond what
the process may use wait for each other."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_ENTRY = re.compile(r"^\d+:(.*?):/(.*)$", re.MULTILINE)
"""A line of `_OWN`: names of controllers (cgroup v1 only), and the path of the process's group."""


def cores_allowed(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """The cores that its affinity names, or fewer by a CPU quota, rounded up, of its control group or of one
    above."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min([present, *_quotas(cgroups, own)]))


def engine_threads() -> int:
    """For a runtime: as many as cores are allowed. 0 where these are all of the machine's: left to itself, it
    takes one thread per physical core, not two."""
    allowed = cores_allowed()
    return 0 if allowed == os.cpu_count() else allowed


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Quotas in cores. A container sees its group as the root, with cgroup v1 under the host's path."""
    try:
        entries = _ENTRY.findall(own.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:  # not Linux
        return
    for controllers, path in entries:
        group = PurePosixPath(path)
        for folder in (group, *group.parents):
            if not controllers:
                yield _quota(cgroups / folder, "cpu.max")
            elif "cpu" in controllers.split(","):
                yield _quota(cgroups / "cpu" / folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quota(group: Path, *names: str) -> float:
    """CPU time by its period, both in microseconds; infinite without a limit."""
    try:
        quota, period = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
        limit = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group or file, or "max"
        return math.inf
    return limit if limit > 0 else math.inf  # version 1 has -1
