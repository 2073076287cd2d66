"""Workers for synchronous tests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from PIL import Image

from export.bundle import Bundle, Geometry, Predictor, Size
from export.bundle.scale import Scale
from service.lane import Lane, Pending
from service.settings import MEBIBYTE, Settings
from service.values import Decoded, EngineOutput, Part, Rendered, Request
from service.workers.image import ImageLimits
from service.workers.job import Done
from service.workers.workers import Workers
from tests.bundles import make_bundle
from tests.service.images import encoded, plain

GEOMETRY = Geometry(32, 64)
LIMITS = ImageLimits(pixels=40_000_000, side=40_000, images=4)
SOURCE = Size(300, 200)
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
        self.lane = Lane(_predictor())

    async def decode(
        self, body: bytes, order: float = 0, declared: str | None = None, lane: Lane | None = None
    ) -> Done[Decoded]:
        request = Request(body, "", 0, declared=declared)
        return await self.pool.decode(self._pending(request, order, lane=lane))

    def read(
        self,
        heatmap: NDArray[np.float32],
        raw_score: float,
        decoded: Decoded,
        parts: frozenset[Part] = frozenset(),
        body: bytes = BODY,
    ) -> Rendered:
        async def asked() -> Done[Rendered]:
            pending = self._pending(Request(body, "", 0, parts=parts), decoded=decoded)
            return await self.pool.read(pending, EngineOutput(heatmap, raw_score, seconds=0, batch_size=1))

        return self.run(asked()).made

    def _pending(
        self, request: Request, order: float = 0, decoded: Decoded | None = None, lane: Lane | None = None
    ) -> Pending:
        predicted = asyncio.get_running_loop().create_future()
        pending = Pending(request, lane or self.lane, order, request.arrived, predicted)
        if decoded is not None:
            pending.decoded = decoded
        return pending

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


@cache
def _predictor() -> Predictor:
    """Of a bundle for `GEOMETRY`. It is closed, as workers need no engine."""
    scale = Scale(median=0.1, threshold=0.7 / 3)
    with TemporaryDirectory() as models:
        predictor = Bundle.open(make_bundle(Path(models), size=(32, 64), scale=scale)).start()
    predictor.close()
    return predictor
