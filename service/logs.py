"""The log: JSON lines on standard error, one per request at level info, and the service's own messages."""

import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from queue import Full, Queue

import orjson

_MAX_WAITING = 10_000
_LAST_LINES_SECONDS = 1.0
_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogOnce:
    """Tells whether a problem is new: one that lasts is logged once, not at every check."""

    def __init__(self) -> None:
        self._problems = dict[str, str]()

    def changed(self, problem: str, place: str = "") -> bool:
        """Whether `problem`, "" for none, differs from that of the previous call for `place`."""
        before = self._problems.pop(place, "")
        if problem:
            self._problems[place] = problem
        return problem != before


def showable(text: str) -> str:
    """`text` as UTF-8 can have it: names of files that can't be decoded have other characters."""
    return text.encode("utf-8", "backslashreplace").decode()


class JsonLines(logging.Formatter):
    """One object per record: time, level, message, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": showable(record.getMessage()),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = showable(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


class BackgroundHandler(QueueHandler):
    """Writes lines on a thread of its own: if nobody reads them (Ctrl-S at a terminal, a log driver that
    hangs), the service goes on. While `room` lines wait, further ones are only counted."""

    def __init__(self, descriptor: int, room: int = _MAX_WAITING) -> None:
        self._waiting = Queue[str](room)
        super().__init__(self._waiting)
        self._descriptor = descriptor
        self._lost = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # nothing is pickled

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                self._waiting.put_nowait(self.format(_lost(self._lost)))
                self._lost = 0
            self._waiting.put_nowait(self.format(record))
        except Full:
            self._lost += 1

    def flush(self) -> None:
        """Waits until all is written, a second at most. `logging` calls it when the process exits."""
        written = self._waiting.all_tasks_done
        with written:
            written.wait_for(lambda: not self._waiting.unfinished_tasks, _LAST_LINES_SECONDS)

    def _write(self) -> None:
        while True:
            write(self._descriptor, f"{self._waiting.get()}\n".encode())
            self._waiting.task_done()


def write(descriptor: int, content: bytes) -> None:
    """Writes past sys.stdout and sys.stderr, whose lock a write that hangs would keep: Python could not exit
    then. What can't be written, such as to a full disk, is dropped."""
    with suppress(OSError):
        while content:
            content = content[os.write(descriptor, content) :]


def _lost(lines: int) -> logging.LogRecord:
    told = f"{lines} lines of the log were lost: they were not read"
    return logging.makeLogRecord({"levelname": "WARNING", "msg": told})


def set_up_logs(level: str) -> None:
    """Writes log records of the service (from `level` on) and of libraries (warnings) to standard error."""
    # Fields that no line contains are not collected, which saves a third of the time per record
    # (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = BackgroundHandler(sys.stderr.fileno())
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(level.upper())
    # It warns of each request that is not HTTP, which strangers may send; drd_rejected_total counts them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
