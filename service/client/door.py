"""What both doors implement: one attempt to inspect one frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx

from service.client.errors import BadInput
from service.client.values import Answer, Frame

KEEP_SECONDS = 30.0
"""An idle connection is closed after this time: well before the service closes it, after 75 s."""


class Door(Protocol):
    """`left` is the time left, in seconds. Raises ClientError."""

    async def inspect(self, frame: Frame, left: float) -> Answer: ...

    async def close(self) -> None: ...


@contextmanager
def writing() -> Iterator[None]:
    """Turns errors while building a request into BadInput: an invalid frame must not affect others."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, httpx.InvalidURL) as error:
        raise BadInput(f"the frame can't be sent: {error}") from error
