"""What the doors have in common: one attempt for one frame."""

from typing import Protocol

from service.client.values import Answer, Frame

KEEP_SECONDS = 30.0
"""An idle connection is given up after this time: well before the service does, which takes 75."""


class Door(Protocol):
    """`left` is the time there is, in seconds. Everything raises of ClientError's tree."""

    async def inspect(self, frame: Frame, left: float) -> Answer: ...

    async def close(self) -> None: ...
