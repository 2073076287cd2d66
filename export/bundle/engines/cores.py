"""How many cores a container may use. Runtimes count the machine's, and their threads then wait for each
other while the kernel makes the container pause."""

import math
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cores_allowed(cgroups: Path = _CGROUPS) -> int | None:
    """The limit on CPU time, in cores, rounded up; None where there is none."""
    try:
        quota, period = _limit(cgroups)
    except (OSError, ValueError):  # another system, or "max"
        return None
    return max(1, math.ceil(quota / period)) if quota > 0 and period > 0 else None


def _limit(cgroups: Path) -> tuple[int, int]:
    """Microseconds of CPU time per period of so many."""
    if (cgroups / "cpu.max").exists():
        quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        return int(quota), int(period)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # the first version of control groups
    first, second = (int((cgroups / "cpu" / name).read_text(encoding="ascii")) for name in names)
    return first, second
