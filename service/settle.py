"""Sets the outcome of a future."""

import asyncio
from typing import TypeVar

Outcome = TypeVar("Outcome")


def settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """Call on the event loop of `future`. Does nothing if it is done or cancelled already."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
