"""What the doors have in common: one attempt for one frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx

from service.client.errors import BadInput
from service.client.values import Answer, Frame

KEEP_SECONDS = 30.0
"""An idle connection is given up after this time: well before the service does, which takes 75."""


class Door(Protocol):
    """`left` is the time there is, in seconds. Everything raises of ClientError's tree."""

    async def inspect(self, frame: Frame, left: float) -> Answer: ...

    async def close(self) -> None: ...


@contextmanager
def writing() -> Iterator[None]:
    """Around what makes a request of a frame: one that can't be written is bad input, and harms no other."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, httpx.InvalidURL) as error:
        raise BadInput(f"the frame can't be sent: {error}") from error
