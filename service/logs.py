"""The log: JSON lines on standard error, one per request at level info, and the service's own messages."""

import logging
from datetime import UTC, datetime

import orjson

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogOnce:
    """Tells whether a trouble is new: one that lasts is to be logged once, not at every look."""

    def __init__(self) -> None:
        self._troubles = dict[str, str]()

    def changed(self, trouble: str, place: str = "") -> bool:
        """Whether `trouble`, "" for none, differs from what was there at `place` in the call before."""
        before = self._troubles.pop(place, "")
        if trouble:
            self._troubles[place] = trouble
        return trouble != before


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


def set_up_logs(level: str) -> None:
    """Writes log records of the service (from `level` on) and of libraries (warnings) to standard error."""
    # Fields that no line contains are not collected, which saves a third of the time per record
    # (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(level.upper())
    # It warns of each request that is not HTTP, which strangers may send; drd_rejected_total counts them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
