"""The archive: the pictures that got certain verdicts, and those verdicts, on disk. No answer waits for it.

    ARCHIVE/2026-11-28/PRODUCT/NG/101530.123-FRAME_ID-1f03a9.png     the picture as it was sent
    ARCHIVE/2026-11-28/PRODUCT/NG/101530.123-FRAME_ID-1f03a9.json    its verdict, as in an answer

Days and times are in UTC. Runs on the event loop, all work with files on threads: a full disk or a network
share that is away costs pictures of the archive, which are counted, and no answer.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson

from export.bundle import Verdict
from service.logs import LogOnce
from service.metrics import Archived, Metrics
from service.record import Record
from service.threads import run_in_daemon_thread
from service.values import SentImage

_MAX_WAITING_BYTES = 64 * 2**20
_LAST_SECONDS = 5.0
_STEP = 0.01
"""Fraction of the room for which is counted, and freed, at once: it takes a look at every file."""
_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png", "image/bmp": ".bmp", "image/tiff": ".tif"}
_OWN = re.compile(r"\d{6}\.\d{3}-[\w.-]*\.(json|jpg|png|bmp|tif)", re.ASCII)
"""Names of files that may be deleted."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_logger = logging.getLogger(__name__)


class Archive:
    """Keeps at most `max_bytes`, the newest, of the pictures with one of `verdicts`."""

    def __init__(self, folder: Path, max_bytes: int, verdicts: Collection[Verdict], metrics: Metrics) -> None:
        self._folder, self._max_bytes, self._verdicts = folder, max_bytes, verdicts
        self._archived, self._log_once = metrics.archived, LogOnce()
        self._left = 0
        """Bytes to be written before it is looked again how much there is."""
        self._waiting = asyncio.Queue[tuple[Record, SentImage]]()
        self._waiting_bytes = 0
        """Of those that wait and the one that is being written."""
        self._writing = asyncio.create_task(self._write_all())

    def add(self, record: Record) -> None:
        """Takes what is to be kept; if too much waits to be written, it is dropped, and counted."""
        finding, image = record.result.finding, record.image
        if finding.verdict not in self._verdicts or image is None:
            return
        if self._waiting_bytes and self._waiting_bytes + len(image.file) > _MAX_WAITING_BYTES:
            self._count(record, "dropped")
            return
        # Without the heatmap, which may be ten times as large and isn't written.
        self._waiting.put_nowait((replace(record, image=None), replace(image, heatmap=b"")))
        self._waiting_bytes += len(image.file)

    async def close(self) -> None:
        """Waits until all is written, five seconds at most."""
        try:
            await asyncio.wait_for(self._waiting.join(), _LAST_SECONDS)
        except TimeoutError:
            _logger.warning("%d pictures for the archive are lost", self._waiting.qsize() + 1)
        self._writing.cancel()

    async def _write_all(self) -> None:
        while True:
            await self._write_one(*await self._waiting.get())

    async def _write_one(self, record: Record, image: SentImage) -> None:
        outcome: Archived = "kept"
        try:
            await run_in_daemon_thread(partial(self._keep, record, image))
            self._log_once.changed("")
        except OSError as error:
            outcome = "failed"
            if self._log_once.changed(error.strerror or str(error)):  # its path differs for each picture
                _logger.error("a picture could not be kept in %s: %s", self._folder, error)
        self._count(record, outcome)
        self._waiting_bytes -= len(image.file)
        self._waiting.task_done()

    def _keep(self, record: Record, image: SentImage) -> None:
        files = self._files_of(record, image)
        needed = sum(map(len, files.values()))
        if needed > self._left:
            self._left = self._make_room(needed)
        _write(files)
        self._left -= needed

    def _files_of(self, record: Record, image: SentImage) -> dict[Path, bytes]:
        """The picture and its verdict, by where they belong."""
        result, at = record.result, datetime.fromtimestamp(record.at, UTC)
        folder = self._folder / f"{at:%Y-%m-%d}" / result.product / result.finding.verdict
        time = f"{at:%H%M%S}.{at.microsecond // 1000:03}"
        frame_id = _NOT_IN_NAMES.sub("_", record.frame_id)[:64]
        name = "-".join(filter(None, (time, frame_id, secrets.token_hex(3))))
        facts = result.facts(record.request_id, record.frame_id) | {"at": at.isoformat(), "door": record.door}
        return {
            folder / f"{name}{_SUFFIX[image.media_type]}": image.file,
            folder / f"{name}.json": orjson.dumps(facts, option=orjson.OPT_INDENT_2),
        }

    def _make_room(self, needed: int) -> int:
        """Deletes the oldest files, where `needed` more bytes are too many. Returns how many may be written
        before it is called again: others may write here, too, or delete. Raises OSError if there is no room.
        """
        if needed > self._max_bytes:
            raise OSError("a picture is larger than all the archive may hold")
        days, step = self._days(), max(needed, int(self._max_bytes * _STEP))
        size = sum(_size(path) for day in days for path in _files(day))
        for day in days:
            if size + needed <= self._max_bytes:
                break
            for path in sorted(_files(day), key=lambda path: path.name):
                if size + step <= self._max_bytes:
                    break
                with suppress(OSError):  # what can't be deleted stays, and the next goes
                    freed = _size(path)
                    path.unlink(missing_ok=True)
                    size -= freed
            if day != days[-1]:
                for folder in (*day.glob("*/*"), *day.glob("*"), day):
                    with suppress(OSError):  # what holds files of others stays
                        folder.rmdir()
        if size + needed > self._max_bytes:
            raise OSError("there is no room, and nothing more can be deleted")
        return min(step, self._max_bytes - size)

    def _days(self) -> list[Path]:
        """The archive's folders of a day, oldest first; before all, those that a wrong clock has dated later
        than today."""
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        days = (path for path in self._folder.iterdir() if _DAY.fullmatch(path.name))
        return sorted(days, key=lambda path: (path.name <= today, path.name))

    def _count(self, record: Record, outcome: Archived) -> None:
        self._archived.labels(record.result.product, outcome).inc()


def _files(day: Path) -> Iterator[Path]:
    """The archive's own files of one day: DAY/PRODUCT/VERDICT/FILE."""
    return (path for path in day.glob("*/*/*") if _OWN.fullmatch(path.name))


def _size(path: Path) -> int:
    """0 if it has gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _write(files: Mapping[Path, bytes]) -> None:
    """All or none."""
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError:
        for path in files:
            path.unlink(missing_ok=True)
        raise
