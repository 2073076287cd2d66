"""What every door implements: one attempt to inspect one frame."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx

from service.client.errors import BadInput, DeadlinePassed
from service.client.values import Answer, Frame


class Door(Protocol):
    """`ends` is the instant of `time.monotonic` of the frame's deadline. Raises ClientError."""

    async def inspect(self, frame: Frame, ends: float) -> Answer: ...

    async def close(self) -> None: ...


def milliseconds_left(ends: float) -> int:
    """At least 1; raises DeadlinePassed if there is no time left. Call it just before sending: waiting for a
    connection or for other frames takes time."""
    if (left := ends - time.monotonic()) <= 0:
        raise DeadlinePassed("the deadline had passed before the frame was sent")
    return max(1, int(1000 * left))


@contextmanager
def as_bad_input() -> Iterator[None]:
    """Turns errors while building a request into BadInput: an invalid frame must not affect others."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, httpx.InvalidURL) as error:
        raise BadInput(f"the frame can't be sent: {error}") from error
