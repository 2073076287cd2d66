"""The log's lines: in order, and counted where nobody reads them."""

import fcntl
import json
import logging
import os

from service.logs import BackgroundHandler, JsonLines


def test_lines_that_are_not_read_are_lost_and_counted() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    log = BackgroundHandler(writing, room=10)
    log.setFormatter(JsonLines())
    for number in range(1000):
        log.handle(_record(str(number)))
    due, lost = 1, 0
    with os.fdopen(reading, encoding="utf-8") as lines:
        messages = (json.loads(line)["message"] for line in lines)
        assert next(messages) == "0"
        log.flush()  # there is room again
        log.handle(_record("1000"))
        while due <= 1000:
            number, _, told = next(messages).partition(" ")
            if told == "lines of the log were lost: they were not read":
                lost += int(number)
                due += int(number)
            else:
                assert (int(number), told) == (due, "")
                due += 1
    os.close(writing)

    assert lost > 800


def _record(message: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "INFO"})
