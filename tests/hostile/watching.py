"""What a server takes while it is ill-treated: memory, threads and open files of it and its workers."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Taken:
    """`resident` in bytes: what only this process and its children hold, pages shared between them once."""

    resident: int
    threads: int
    files: int
    processes: int


def taken(process: int) -> Taken:
    """By `process` and all its descendants; files and threads of itself alone."""
    family = [process, *_descendants(process)]
    return Taken(
        resident=sum(map(_proportional, family)),
        threads=len(list(Path(f"/proc/{process}/task").iterdir())),
        files=len(list(Path(f"/proc/{process}/fd").iterdir())),
        processes=len(family),
    )


def _proportional(process: int) -> int:
    """Bytes; pages shared by several processes are divided among them."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    (line,) = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return 1024 * int(line.split()[1])


def _descendants(process: int) -> list[int]:
    found = list[int]()
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            for child in map(int, children.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
