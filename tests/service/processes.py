"""The fork servers and workers of a process, by default of this one."""

import os
from pathlib import Path

from tests.e2e.serving import wait_until


def forkservers(of: int | None = None) -> list[int]:
    children = _children(of or os.getpid())
    return [child for child in children if "service.workers.forkserver" in _command(child)]


def the_worker() -> int:
    (worker,) = workers(1)
    return worker


def workers(count: int, of: int | None = None) -> list[int]:
    """All workers, once there are `count`: those of earlier tests may not have ended yet."""

    def found() -> list[int]:
        return [child for forkserver in forkservers(of) for child in _children(forkserver)]

    wait_until(lambda: len(found()) == count)
    return found()


def _children(process: int) -> list[int]:
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for one in lists for child in one.read_text(encoding="ascii").split())


def _command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
