"""How what is awaited comes to its end."""

import asyncio
from typing import TypeVar

Outcome = TypeVar("Outcome")


def settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """On the event loop of `future`. Whoever comes second, or after a cancellation, comes too late."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
