"""The inspector: batches, deadlines, cancellation, failures. Real threads and engines behind a gate."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path

import pytest

from service.app import Service
from service.errors import Busy, DeadlinePassed, InspectionFailed, NotLoaded, NotServing, UnreadableImage
from service.values import Inspection, Request
from tests.bundles import make_bundle
from tests.service.engines import NOT_A_NUMBER, POISON, Gate
from tests.service.inspecting import ask_at_random, inspecting


def within(seconds: float, work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, seconds))


async def reached(gate: Gate) -> None:
    await asyncio.to_thread(gate.wait_for_batch)


async def settled(service: Service, frames: int) -> None:
    """Returns when `frames` decoded frames are in the queue."""
    lanes = [version.lane for version in service.inspector.catalog.versions()]
    while sum(len(lane.queue) for lane in lanes if lane) != frames:  # noqa: ASYNC110  # no event to wait for
        await asyncio.sleep(0)


def test_batches_form_while_the_engine_is_busy(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (service, inspect):
            gate.shut()
            first = asyncio.create_task(inspect(1))
            await reached(gate)
            others = [asyncio.create_task(inspect(level)) for level in range(2, 9)]
            await settled(service, 7)
            gate.open()
            answers = await asyncio.gather(first, *others)

        assert sorted(map(len, gate.batches)) == [1, 1, 2, 4]
        assert [round(255 * answer.finding.raw_score) for answer in answers] == list(range(1, 9))
        assert answers[0].batch_size == 1

    within(30, work())


def test_the_earliest_deadline_goes_first_across_products(tmp_path: Path) -> None:
    for product in ("bolt", "tile"):
        make_bundle(tmp_path, product)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (service, inspect):
            gate.shut()
            asked = [asyncio.create_task(inspect(1))]
            await reached(gate)
            asked += [
                asyncio.create_task(inspect(20, "tile")),  # no deadline: queued as if 1 s
                asyncio.create_task(inspect(30, "bolt", budget=20)),
                asyncio.create_task(inspect(40, "bolt", budget=0.9)),
                asyncio.create_task(inspect(50, "tile", budget=0.8)),
            ]
            await settled(service, 4)
            gate.open()
            await asyncio.gather(*asked)

        assert gate.batches == [(1,), (50, 20), (40, 30)]

    within(30, work())


def test_a_frame_that_left_never_reaches_the_engine(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate, max_queued_frames=3) as (service, inspect):
            gate.shut()
            stays = asyncio.create_task(inspect(1))
            await reached(gate)
            leaves = asyncio.create_task(inspect(2))
            also_stays = asyncio.create_task(inspect(3))
            await settled(service, 2)
            with pytest.raises(Busy, match="full"):
                await inspect(4)
            leaves.cancel()
            await asyncio.wait([leaves])
            last = asyncio.create_task(inspect(5))  # takes the freed place
            await settled(service, 2)
            gate.open()
            await asyncio.gather(stays, also_stays, last)

        assert gate.batches == [(1,), (3, 5)]

    within(30, work())


def test_a_deadline_passes_while_the_engine_is_busy(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (_, inspect):
            gate.shut()
            busy = asyncio.create_task(inspect(1))
            await reached(gate)
            started = time.monotonic()
            with pytest.raises(DeadlinePassed):
                await inspect(2, budget=0.1)
            assert time.monotonic() - started < 1
            gate.open()
            await busy

        assert gate.batches == [(1,)]

    within(30, work())


def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (service, inspect):
            lane = service.inspector.catalog.lane("tile")
            for pace in lane.pace.infer.values():
                pace.seconds = 0.5
            gate.shut()
            busy = asyncio.create_task(inspect(1))
            await reached(gate)
            with pytest.raises(Busy) as refusal:
                await inspect(2, budget=0.2)
            assert refusal.value.reason == "deadline"
            assert refusal.value.retry_after > 0.1
            gate.open()
            await busy

    within(30, work())


def test_many_callers_without_deadlines_leave_the_engine_to_one_with_a_deadline(tmp_path: Path) -> None:
    """Also when what they have waiting takes longer than the deadline they are queued with."""
    make_bundle(tmp_path)
    make_bundle(tmp_path, "bolt")

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate, default_deadline_ms=50) as (service, inspect):
            for product in ("tile", "bolt"):
                for size, pace in service.inspector.catalog.lane(product).pace.infer.items():
                    pace.seconds = 0.2 * size
            gate.shut()
            first = asyncio.create_task(inspect(1))
            await reached(gate)
            patient = [asyncio.create_task(inspect(1)) for _ in range(64)]
            await settled(service, 64)
            urgent = asyncio.create_task(inspect(9, "bolt", budget=5))
            await settled(service, 65)
            gate.open()
            await asyncio.gather(first, urgent, *patient)
        assert gate.batches.index((9,)) == 3  # of ten; within 5 s of forecast time are 12 of the patient ones

    within(30, work())


def test_a_forecast_that_was_wrong_is_unlearned(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        async with inspecting(tmp_path, Gate()) as (service, inspect):
            for pace in service.inspector.catalog.lane("tile").pace.infer.values():
                pace.seconds = 50.0
            answered = 0
            while not answered:
                try:
                    await inspect(2, budget=5)
                    answered += 1
                except Busy:
                    await asyncio.sleep(0.01)

    within(30, work())


def test_the_engines_failure_is_its_batchs_only(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (service, inspect):
            gate.shut()
            first = asyncio.create_task(inspect(1))
            await reached(gate)
            poisoned = [asyncio.create_task(inspect(level)) for level in (POISON, 2)]
            await settled(service, 2)
            gate.open()
            results = await asyncio.gather(*poisoned, return_exceptions=True)
            assert [type(result) for result in results] == [InspectionFailed, InspectionFailed]
            assert (await first).finding.verdict == "OK"
            assert (await inspect(200)).finding.verdict == "NG"

    within(30, work())


def test_a_batch_that_runs_out_of_memory_is_run_one_by_one(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate(most=1)
        async with inspecting(tmp_path, gate) as (service, inspect):
            gate.shut()
            first = asyncio.create_task(inspect(1))
            await reached(gate)
            others = [asyncio.create_task(inspect(level)) for level in (2, POISON, 4, 5)]
            await settled(service, 4)
            gate.open()
            await first
            two, failed, four, five = await asyncio.gather(*others, return_exceptions=True)

        assert gate.batches == [(1,), (2, POISON, 4, 5), (2,), (POISON,), (4,), (5,)]
        assert isinstance(failed, InspectionFailed)
        for level, answer in ((2, two), (4, four), (5, five)):
            assert isinstance(answer, Inspection)
            assert (round(255 * answer.finding.raw_score), answer.batch_size) == (level, 1)

    within(30, work())


def test_not_a_number_fails_its_frame_only(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (service, inspect):
            gate.shut()
            first = asyncio.create_task(inspect(1))
            await reached(gate)
            shared = [asyncio.create_task(inspect(level)) for level in (NOT_A_NUMBER, 99)]
            await settled(service, 2)
            gate.open()
            failed, good = await asyncio.gather(*shared, return_exceptions=True)
            await first

        assert isinstance(failed, InspectionFailed)
        assert isinstance(good, Inspection)
        assert good.batch_size == 2
        assert round(255 * good.finding.raw_score) == 99

    within(30, work())


def test_what_was_accepted_is_answered_before_the_engine_is_closed(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        gate = Gate()
        async with inspecting(tmp_path, gate) as (_, inspect):
            gate.shut()
            asked = [asyncio.create_task(inspect(level)) for level in range(1, 8)]
            await reached(gate)
            asyncio.get_running_loop().call_later(0.05, gate.open)
        assert [round(255 * (await answer).finding.raw_score) for answer in asked] == list(range(1, 8))
        assert len(gate.closed) == 1
        with pytest.raises(NotServing):
            await inspect(1)

    within(30, work())


def test_nothing_is_swapped_or_lost_under_random_cancels_failures_and_deadlines(tmp_path: Path) -> None:
    ends = asyncio.run(asyncio.wait_for(ask_at_random(tmp_path, 10_000), 120))

    assert ends.total() == 10_000
    assert {"answered", "cancelled", "failed"} <= ends.keys()
    assert ends.keys() & {"refused", "late"}  # the speed of the machine decides which


def test_failures_before_the_queue_keep_their_kind(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        async with inspecting(tmp_path, Gate()) as (service, inspect):
            with pytest.raises(NotLoaded):
                await inspect(1, "nothing")
            with pytest.raises(UnreadableImage):
                await service.inspector.inspect(Request(b"text", "tile", time.monotonic()))

    within(30, work())
