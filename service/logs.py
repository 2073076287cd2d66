"""The log: JSON lines on standard error, one per request at level info, and the service's own messages."""

import logging
import sys
from datetime import UTC, datetime
from typing import IO

import orjson

from service.errors import showable

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Troubles:
    """What goes wrong for a while is to be logged once, not at every look while it lasts."""

    def __init__(self) -> None:
        self._now = dict[str, str]()

    def note(self, trouble: str, place: str = "") -> bool:
        """Notes the trouble there is at `place`, "" for none. Whether it differs from that noted before."""
        before = self._now.pop(place, "")
        if trouble:
            self._now[place] = trouble
        return trouble != before


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


def set_up_logs(level: str, to: IO[str] = sys.stderr) -> None:
    """Writes log records of the service (from `level` on) and of libraries (warnings) to `to`."""
    # Fields that no line contains are not collected, which saves a third of the time per record
    # (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(to)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(level.upper())
    # It warns of each request that is not HTTP, which strangers may send; drd_rejected_total counts them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
