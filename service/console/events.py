"""Live verdicts as server-sent events: at most `RATE` batches per second, of at most `BATCH` records each.

Nothing is queued per page: a slow page gets the newest records and misses some, so a watcher costs the same
at 20 verdicts per second as at 2000. The counts in every batch are complete.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any

import orjson

from service.history import History, Sees
from service.record import Record

RATE, BATCH = 4, 100
FIRST_BATCH = 1000
STEP = 20
"""Records serialised before the event loop gets a turn."""
BEAT_SECONDS = 2.0
"""An event comes at least this often; otherwise the page assumes that the service is gone."""
MAX_AGE_SECONDS = 300.0
"""Then the page has to reconnect, and is admitted only if its token is still valid."""


async def events(
    place: AbstractContextManager[None],
    history: History,
    sees: Sees,
    state: Callable[[], dict[str, Any]],
    last_id: str,
) -> AsyncIterator[bytes]:
    """First the records since `last_id`, then new ones; ends when the service does."""
    after, limit, shown = history.number(last_id), FIRST_BATCH, None
    ends = time.monotonic() + MAX_AGE_SECONDS
    with place:
        yield b"retry: 500\n\n"
        while not history.closed and time.monotonic() < ends:
            if (now := state()) != shown:
                yield _event("state", orjson.dumps(now))
                shown = now
            records, after = history.latest(sees, limit, after), history.newest
            counts = history.counts_of(sees)
            message = await listed(records, history.id, now=time.time(), counts=counts)
            yield _event("verdicts", message, f"{history.id}-{after}")
            limit = BATCH
            await asyncio.sleep(1 / RATE)
            if after == history.newest:
                with suppress(TimeoutError):
                    await asyncio.wait_for(history.news(), BEAT_SECONDS)


async def listed(records: Iterable[Record], history_id: str, **more: object) -> bytes:
    """The records as JSON, made in steps, between which the event loop goes on: all may take 0.1 s."""
    facts = list[orjson.Fragment]()
    for number, record in enumerate(records):
        if number % STEP == 0:
            await asyncio.sleep(0)
        facts.append(orjson.Fragment(orjson.dumps(record.facts(history_id))))
    return orjson.dumps({"records": facts} | more)


def _event(name: str, data: bytes, event_id: str = "") -> bytes:
    line = f"id: {event_id}\n".encode() if event_id else b""
    return line + b"event: %s\ndata: %s\n\n" % (name.encode(), data)
