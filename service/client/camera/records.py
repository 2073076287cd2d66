"""The output files of a run: a line per picture, as CSV or JSON, and overlays of what was not OK."""

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO

from service.client.camera.camera import Sent

_COLUMNS = (
    "time", "number", "picture", "frame_id", "verdict", "reason", "score", "product", "version", "engine",
    "ms", "service_ms", "error", "detail",
)  # fmt: skip


_MAX_STEM_BYTES = 200
"""A file name has at most 255."""


class Records:
    """Opens the given files, or raises OSError. Each line is flushed when written.

    Adds to what earlier runs left, and overwrites none of it. An overlay that can't be saved is said once,
    and `incomplete`.
    """

    def __init__(
        self,
        csv_file: Path | None,
        json_file: Path | None,
        overlays: Path | None,
        say: Callable[[OSError], None],
    ) -> None:
        self.incomplete = False
        self._overlays, self._say = overlays, say
        self._csv: csv.DictWriter[str] | None = None
        self._json: TextIO | None = None
        with ExitStack() as opened:
            if overlays is not None:
                overlays.mkdir(parents=True, exist_ok=True)
            if csv_file is not None:
                lines = opened.enter_context(_to_add_lines(csv_file))
                self._csv = csv.DictWriter(lines, _COLUMNS, extrasaction="ignore")
                if not os.fstat(lines.fileno()).st_size:
                    self._csv.writeheader()
            if json_file is not None:
                self._json = opened.enter_context(_to_add_lines(json_file))
            self._opened = opened.pop_all()

    def write(self, sent: Sent) -> None:
        facts = _facts(sent)
        if self._csv is not None:
            self._csv.writerow(facts)
        if self._json is not None:
            self._json.write(json.dumps(facts) + "\n")
        answer = sent.outcome.answer
        if self._overlays is not None and answer is not None and answer.verdict != "OK" and answer.overlay:
            name = f"{sent.number:06}-{_cut(sent.path.stem)}-{answer.verdict}"
            try:
                with _new(self._overlays, name, answer.request_id) as overlay:
                    overlay.write(answer.overlay.png)
            except OSError as error:  # such as a full disk: that must not stop the inspection
                if not self.incomplete:
                    self._say(error)
                self.incomplete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def _to_add_lines(path: Path) -> TextIO:
    """A last line that was cut, as by a full disk, gets an end, and so does what it has quoted: it must not
    take the next with it."""
    lines = path.open("a", buffering=1, encoding="utf-8", newline="")
    if os.fstat(lines.fileno()).st_size:
        with path.open("rb") as before:
            before.seek(-1, os.SEEK_END)
            if before.read(1) != b"\n":
                before.seek(0)
                lines.write('"\n' if sum(line.count(b'"') for line in before) % 2 else "\n")
    return lines


def _new(folder: Path, name: str, request_id: str) -> BinaryIO:
    """A new PNG file. An earlier run may have left one of the same name."""
    try:
        return (folder / f"{name}.png").open("xb")
    except FileExistsError:
        return (folder / f"{name}-{request_id}.png").open("xb")


def _cut(stem: str) -> str:
    while len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem


def _facts(sent: Sent) -> dict[str, Any]:
    outcome, answer = sent.outcome, sent.outcome.answer
    facts: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "number": sent.number,
        "picture": sent.file,
        "frame_id": outcome.frame.frame_id,
        "product": outcome.frame.product,
        "ms": round(1000 * outcome.seconds, 3),
    }
    if answer is None:
        return facts | {"error": type(outcome.error).__name__, "detail": str(outcome.error)}
    return facts | {
        "request_id": answer.request_id,
        "version": answer.version,
        "bundle_digest": answer.bundle_digest,
        "engine": answer.engine,
        "verdict": answer.verdict,
        "reason": answer.reason,
        "score": answer.score,
        "threshold": answer.threshold,
        "raw_score": answer.raw_score,
        "raw_threshold": answer.raw_threshold,
        "regions": [dataclasses.asdict(region) for region in answer.regions],
        "service_ms": round(answer.timings_ms.total, 3),
        "timings_ms": dataclasses.asdict(answer.timings_ms),
        "batch_size": answer.batch_size,
    }
