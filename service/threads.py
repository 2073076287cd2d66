"""Setting futures of the event loop, and work that may block for minutes, on a thread of its own."""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def settle(future: asyncio.Future[T], outcome: T | Exception) -> None:
    """Call on the event loop of `future`. Does nothing if it is done or cancelled already."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


async def run_in_daemon_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises; OSError if there may be no more threads now. As `asyncio.to_thread`, but
    its thread does not hold the process's exit: native code that loads an engine, a network share that is
    away and a fork server that hangs cannot be interrupted."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        outcome: T | Exception
        try:
            outcome = work()
        except BaseException as error:  # noqa: BLE001  # a panic of Rust code is no Exception
            outcome = error if isinstance(error, Exception) else RuntimeError(repr(error))
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, done, outcome)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    return await done
