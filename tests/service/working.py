"""Workers for synchronous tests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from PIL import Image

from export.bundle import (
    Geometry,
)
from service.image import ImageLimits
from service.inspection import Decoded
from service.job import Done
from service.pace import Average
from service.settings import MEBIBYTE, Settings
from service.workers import Workers
from tests.service.images import encoded, plain

GEOMETRY = Geometry(32, 64)
LIMITS = ImageLimits(pixels=40_000_000, side=40_000, frames=4)
SOURCE = 300, 200
BODY = encoded(Image.linear_gradient("L").resize(SOURCE), "JPEG")


class Working:
    """Workers on an event loop that runs only during calls."""

    def __init__(self, runner: asyncio.Runner, settings: dict[str, Any]) -> None:
        given: dict[str, Any] = {
            "models": Path(),
            "workers": 1,
            "max_image_side": LIMITS.side,
            "decode_seconds": 30,
            "decode_bytes": 2048 * MEBIBYTE,
        }
        self.run = runner.run
        self.pool = Workers(Settings(**given | settings))

    async def decode(
        self, body: bytes, order: float = 0, declared: str | None = None, pace: Average | None = None
    ) -> Done[Decoded]:
        return await self.pool.decode(order, body, GEOMETRY, declared, pace or Average())

    def decoded(self, body: bytes, declared: str | None = None) -> Decoded:
        return self.run(self.decode(body, declared=declared)).made

    def level(self, level: int) -> None:
        """Asserts that a plain image of that grey level is decoded correctly."""
        assert self.decoded(plain(level)).pixels[0, 0, 0] == level


@contextmanager
def working(**settings: Any) -> Iterator[Working]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        one = Working(runner, settings)
        runner.run(one.pool.start())
        yield one
        runner.run(one.pool.close())
