"""The inspector without doors, called once or by many random callers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from service.app import Service, open_service
from service.errors import Busy, DeadlinePassed, InspectionFailed
from service.settings import Settings
from service.values import Request, Result
from tests.bundles import make_bundle
from tests.service.engines import NOT_A_NUMBER, POISON, Gate
from tests.service.images import plain

Inspect = Callable[..., Coroutine[Any, Any, Result]]


@asynccontextmanager
async def inspecting(models: Path, gate: Gate, **settings: Any) -> AsyncIterator[tuple[Service, Inspect]]:
    """A service without doors, and a short way to ask it: `inspect(level, product, budget in seconds)`."""
    given: dict[str, Any] = {
        "models": models,
        "http": "",
        "grpc": "",
        "lame_duck_seconds": 0,
        "watch_seconds": 0.02,
    } | settings
    async with open_service(Settings(**given), gate.start) as service:
        await service.load()

        async def inspect(level: int, product: str = "tile", budget: float | None = None) -> Result:
            now = time.monotonic()
            deadline = None if budget is None else now + budget
            request = Request(plain(level), product, now, deadline)
            return (await service.inspector.inspect(request)).result

        yield service, inspect


async def ask_at_random(models: Path, requests: int, callers: int = 40) -> Counter[str]:
    """Random requests to five products, some cancelled, failing or with a short deadline.

    Asserts that every answer is its caller's own and that nothing is left behind; how the requests ended.
    """
    products = [f"product-{number}" for number in range(5)]
    for product in products:
        make_bundle(models, product)
    chance, ends = random.Random(0), Counter[str]()
    async with inspecting(models, Gate(), workers=3, watch_seconds=1) as (service, inspect):

        async def caller() -> None:
            for _ in range(requests // callers):
                ends[await _ask(inspect, chance, chance.choice(products))] += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        lanes = [service.inspector.catalog.lane(product) for product in products]
        assert [(lane.pending, len(lane.queue)) for lane in lanes] == [(0, 0)] * 5
    return ends


async def _ask(inspect: Inspect, chance: random.Random, product: str) -> str:
    level, budget = chance.randrange(1, 256), chance.choice((None, None, 5.0, 0.02, 0.0))
    asked = asyncio.ensure_future(inspect(level, product, budget))
    if chance.random() < 0.2:
        asyncio.get_running_loop().call_later(chance.random() / 50, asked.cancel)
    try:
        result = await asked
    except asyncio.CancelledError:
        return "cancelled"
    except InspectionFailed:
        return "failed"
    except DeadlinePassed:
        return "late"
    except Busy:
        return "refused"
    assert (round(255 * result.finding.raw_score), result.product) == (level, product)
    assert level not in (POISON, NOT_A_NUMBER)
    return "answered"
