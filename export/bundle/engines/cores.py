"""The CPU limit of the container. Runtimes start one thread per core of the machine; above the limit, the
kernel throttles the container and the threads wait for each other."""

import math
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cores_allowed(cgroups: Path = _CGROUPS) -> int | None:
    """The limit in cores, rounded up; None without a limit."""
    try:
        quota, period = _limit(cgroups)
    except (OSError, ValueError):  # not Linux, or "max"
        return None
    return max(1, math.ceil(quota / period)) if quota > 0 and period > 0 else None


def _limit(cgroups: Path) -> tuple[int, int]:
    """Quota of CPU time and its period, both in microseconds."""
    if (cgroups / "cpu.max").exists():
        quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        return int(quota), int(period)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # cgroups version 1
    first, second = (int((cgroups / "cpu" / name).read_text(encoding="ascii")) for name in names)
    return first, second
