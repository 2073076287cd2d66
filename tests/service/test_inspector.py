"""The inspector: batches, deadlines, cancellation, failures. Real threads and engines behind a gate."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.app import Service
from service.errors import BadImage, Busy, DeadlinePassed, InspectionFailed, NotFound, NotServing
from service.lane import Pending
from service.values import Request, Result
from tests.bundles import make_bundle
from tests.e2e.serving import wait_until
from tests.service.engines import NOT_A_NUMBER, POISON, Gate
from tests.service.inspecting import Inspect, ask_at_random, inspecting
from tests.service.loop import on_a_loop


@pytest.fixture
def gate() -> Gate:
    return Gate()


@asynccontextmanager
async def busy(gate: Gate, inspect: Inspect) -> AsyncIterator[asyncio.Task[Result]]:
    """The engine is busy with an image of level 1, whose result is given, until the block ends."""
    gate.shut()
    first = asyncio.create_task(inspect(1))
    await asyncio.to_thread(gate.wait_for_batch)
    try:
        yield first
    finally:
        gate.open()


async def queued(service: Service, count: int) -> None:
    """Returns when `count` decoded images are in the queues."""
    lanes = [version.lane for version in service.inspector.catalog.versions()]
    while sum(len(lane.queue) for lane in lanes if lane) != count:  # noqa: ASYNC110  # no event to wait for
        await asyncio.sleep(0)


def level(result: Result) -> int:
    """The grey level of the image that a result is about."""
    return round(255 * result.finding.raw_score)


@on_a_loop
async def test_batches_form_while_the_engine_is_busy(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (service, inspect):
        async with busy(gate, inspect) as first:
            others = [asyncio.create_task(inspect(level)) for level in range(2, 9)]
            await queued(service, 7)
        results = await asyncio.gather(first, *others)

    assert sorted(map(len, gate.batches)) == [1, 1, 2, 4]
    assert [level(result) for result in results] == list(range(1, 9))
    assert results[0].batch_size == 1


@on_a_loop
async def test_an_engine_that_waits_holds_no_image(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (service, inspect):
        lane = service.inspector.catalog.lane("tile")

        def held() -> bool:
            return any(type(each) is Pending and each.lane is lane for each in gc.get_objects())

        await inspect(200)
        await asyncio.to_thread(wait_until, lambda: not held(), 10)


@on_a_loop
async def test_batches_count_as_failed_in_a_row_not_their_frames(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (service, inspect):
        async with busy(gate, inspect):
            poisoned = [asyncio.create_task(inspect(POISON)) for _ in range(24)]
            await queued(service, 24)
        failures = await asyncio.gather(*poisoned, return_exceptions=True)
        alive = service.inspector.readiness.alive

    assert {type(failure) for failure in failures} == {InspectionFailed}
    assert len(gate.batches) == 1 + 3 * (1 + 8)
    assert alive


@on_a_loop
async def test_the_earliest_deadline_goes_first_across_products(tmp_path: Path, gate: Gate) -> None:
    for product in ("bolt", "tile"):
        make_bundle(tmp_path, product)
    async with inspecting(tmp_path, gate, default_deadline_ms=100_000) as (service, inspect):
        async with busy(gate, inspect) as first:
            others = [
                asyncio.create_task(inspect(20, "tile")),  # no deadline: queued as if 100 s
                asyncio.create_task(inspect(30, "bolt", budget=200)),
                asyncio.create_task(inspect(40, "bolt", budget=90)),
                asyncio.create_task(inspect(50, "tile", budget=80)),
            ]
            await queued(service, 4)
        await asyncio.gather(first, *others)

    assert gate.batches == [(1,), (50, 20), (40, 30)]


@on_a_loop
async def test_an_image_whose_caller_left_never_reaches_the_engine(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate, max_queued_frames=3) as (service, inspect):
        async with busy(gate, inspect) as first:
            leaves = asyncio.create_task(inspect(2))
            stays = asyncio.create_task(inspect(3))
            await queued(service, 2)
            with pytest.raises(Busy, match="full"):
                await inspect(4)
            leaves.cancel()
            await asyncio.wait([leaves])
            last = asyncio.create_task(inspect(5))  # takes the freed place
            await queued(service, 2)
        await asyncio.gather(first, stays, last)

    assert gate.batches == [(1,), (3, 5)]


@on_a_loop
async def test_a_deadline_passes_while_the_engine_is_busy(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (_, inspect):
        async with busy(gate, inspect) as first:
            with pytest.raises(DeadlinePassed):
                await inspect(2, budget=0.1)
            assert gate.batches == []  # it still is
        await first

    assert gate.batches == [(1,)]


@on_a_loop
async def test_a_deadline_that_cannot_be_met_is_refused_at_once(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (service, inspect):
        for pace in service.inspector.catalog.lane("tile").pace.infer.values():
            pace.seconds = 0.5
        async with busy(gate, inspect) as first:
            with pytest.raises(Busy) as refusal:
                await inspect(2, budget=0.2)
            assert refusal.value.reason == "deadline"
            assert refusal.value.retry_after > 0.1
        await first


@on_a_loop
async def test_many_callers_without_deadlines_leave_the_engine_to_one_with_a_deadline(
    models: Path, gate: Gate
) -> None:
    """Also when what they have waiting takes longer than the deadline they are queued with."""
    make_bundle(models, "bolt")
    async with inspecting(models, gate, default_deadline_ms=500) as (service, inspect):
        for product in ("tile", "bolt"):
            for size, pace in service.inspector.catalog.lane(product).pace.infer.items():
                pace.seconds = 2 * size
        async with busy(gate, inspect) as first:
            patient = [asyncio.create_task(inspect(1)) for _ in range(64)]
            await queued(service, 64)
            urgent = asyncio.create_task(inspect(9, "bolt", budget=50))
            await queued(service, 65)
        await asyncio.gather(first, urgent, *patient)

    assert gate.batches.index((9,)) == 3  # of ten; within 50 s of forecast time are 12 of the patient ones


@on_a_loop
async def test_a_forecast_that_was_wrong_is_unlearned(models: Path) -> None:
    async with inspecting(models, Gate()) as (service, inspect):
        for pace in service.inspector.catalog.lane("tile").pace.infer.values():
            pace.seconds = 50.0
        answered = False
        while not answered:
            try:
                await inspect(2, budget=5)
                answered = True
            except Busy:
                await asyncio.sleep(0.01)


@on_a_loop
async def test_a_frame_on_which_the_engine_fails_does_not_fail_its_neighbours(
    models: Path, gate: Gate
) -> None:
    async with inspecting(models, gate) as (service, inspect):
        async with busy(gate, inspect) as first:
            others = [asyncio.create_task(inspect(level)) for level in (2, POISON, 4, 5)]
            await queued(service, 4)
        await first
        two, failed, four, five = await asyncio.gather(*others, return_exceptions=True)
        with pytest.raises(InspectionFailed):
            await inspect(POISON)

    assert gate.batches == [(1,), (2, POISON, 4, 5), (2,), (POISON,), (4,), (5,), (POISON,)]
    assert isinstance(failed, InspectionFailed)
    answered = [result for result in (two, four, five) if isinstance(result, Result)]
    assert [(level(result), result.batch_size) for result in answered] == [(2, 1), (4, 1), (5, 1)]


@on_a_loop
async def test_an_engine_on_the_cpu_does_not_hold_up_one_on_the_gpu(models: Path, gate: Gate) -> None:
    make_bundle(models, "bolt")
    gate = Gate(gpu="bolt")
    async with inspecting(models, gate) as (_, inspect):
        gate.shut()
        asked = [asyncio.create_task(inspect(1, product)) for product in ("tile", "bolt")]
        for _ in asked:
            await asyncio.to_thread(gate.wait_for_batch)
        gate.open()
        assert [level(await result) for result in asked] == [1, 1]


@on_a_loop
async def test_not_a_number_fails_its_image_only(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (service, inspect):
        async with busy(gate, inspect) as first:
            shared = [asyncio.create_task(inspect(level)) for level in (NOT_A_NUMBER, 99)]
            await queued(service, 2)
        failed, good = await asyncio.gather(*shared, return_exceptions=True)
        await first

    assert isinstance(failed, InspectionFailed)
    assert isinstance(good, Result)
    assert (level(good), good.batch_size) == (99, 2)


@on_a_loop
async def test_what_was_accepted_is_answered_before_the_engine_is_closed(models: Path, gate: Gate) -> None:
    async with inspecting(models, gate) as (_, inspect):
        gate.shut()
        asked = [asyncio.create_task(inspect(level)) for level in range(1, 8)]
        await asyncio.to_thread(gate.wait_for_batch)
        asyncio.get_running_loop().call_later(0.05, gate.open)

    assert [level(await result) for result in asked] == list(range(1, 8))
    assert len(gate.closed) == 1
    with pytest.raises(NotServing):
        await inspect(1)


def test_nothing_is_swapped_or_lost_under_random_cancels_failures_and_deadlines(tmp_path: Path) -> None:
    ends = asyncio.run(asyncio.wait_for(ask_at_random(tmp_path, 10_000), 120))

    assert ends.total() == 10_000
    assert {"answered", "cancelled", "failed"} <= ends.keys()
    assert ends.keys() & {"refused", "late"}  # the speed of the machine decides which


@on_a_loop
async def test_failures_before_the_queue_keep_their_kind(models: Path) -> None:
    async with inspecting(models, Gate()) as (service, inspect):
        with pytest.raises(NotFound, match="ListProducts"):
            await inspect(1, "nothing")
        with pytest.raises(BadImage):
            await service.inspector.inspect(Request(b"text", "tile", time.monotonic()))
