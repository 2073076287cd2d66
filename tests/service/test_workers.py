"""Workers: the death of one affects no other. Real processes, real images."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadImage, TooLarge, UnlikeDeclared
from service.lane import Lane
from service.settings import MEBIBYTE
from service.values import Decoded
from service.workers.job import Done
from tests.service.images import plain
from tests.service.processes import forkservers, the_worker, workers
from tests.service.working import BODY, Working, working


@pytest.fixture
def work() -> Iterator[Working]:
    with working() as one:
        yield one


@pytest.mark.parametrize(
    ("body", "declared", "failure"),
    [
        (b"text", None, BadImage),
        (plain(1), "image/jpeg", UnlikeDeclared),
        (plain(1, (40_001, 1)), None, TooLarge),
    ],
)
def test_failures_keep_their_type(
    work: Working, body: bytes, declared: str | None, failure: type[Exception]
) -> None:
    with pytest.raises(failure):
        work.decoded(body, declared)


def test_a_worker_that_was_killed_is_replaced(work: Working) -> None:
    before = the_worker()
    os.kill(before, signal.SIGKILL)

    work.level(9)
    assert the_worker() != before


def test_a_good_image_outlives_workers_that_were_killed_while_they_waited() -> None:
    with working(workers=3) as several:
        for worker in workers(3):
            os.kill(worker, signal.SIGKILL)
        several.level(9)


def test_a_job_outlives_its_worker(work: Working) -> None:
    before = the_worker()

    async def killed() -> Done[Decoded]:
        os.kill(before, signal.SIGSTOP)
        job = asyncio.create_task(work.decode(plain(9)))
        await asyncio.sleep(0)
        os.kill(before, signal.SIGKILL)
        return await job

    assert work.run(killed()).made.pixels[0, 0, 0] == 9
    assert the_worker() != before


def test_signals_that_end_the_service_do_not_end_its_workers(work: Working) -> None:
    (forkserver,) = forkservers()
    before = the_worker()
    for process in (forkserver, before):
        os.kill(process, signal.SIGTERM)

    work.level(9)
    assert the_worker() == before


def test_without_its_fork_server_it_starts_another(work: Working) -> None:
    (forkserver,) = forkservers()
    for process in (forkserver, the_worker()):
        os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, forkserver, os.WEXITED | os.WNOWAIT)

    work.level(9)
    assert forkservers() != [forkserver]


def test_time_is_bounded() -> None:
    with working(decode_seconds=0.2) as bounded:
        with pytest.raises(TooLarge, match="takes more than"):
            bounded.decoded(run_length_bitmap(4000, 4000))
        bounded.level(9)


def test_a_worker_that_never_answers_is_given_up() -> None:
    with working(decode_seconds=0.05) as bounded:
        stopped = the_worker()
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(TooLarge, match="takes more than"):
            bounded.decoded(plain(8))
        bounded.level(9)
        assert the_worker() != stopped  # though it ignores all signals but SIGKILL


def test_memory_is_bounded() -> None:
    with working(decode_bytes=64 * MEBIBYTE) as bounded:
        with pytest.raises(TooLarge, match="memory"):
            bounded.decoded(plain(1, (5000, 5000)))
        bounded.level(9)


def test_a_worker_can_open_nothing(work: Working) -> None:
    limits = Path(f"/proc/{the_worker()}/limits").read_text(encoding="ascii")

    for name in ("Max open files", "Max file size", "Max processes", "Max core file size"):
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.removeprefix(name).split()[:2] == ["0", "0"]


def test_workers_end_with_their_pool() -> None:
    with working(workers=2):
        workers(2)
    workers(0)


def test_jobs_run_in_the_order_of_their_deadlines(work: Working) -> None:
    async def asked() -> list[str]:
        ended = list[str]()

        async def ask(name: str, job: Coroutine[Any, Any, object]) -> None:
            await job
            ended.append(name)

        async with held(the_worker()):
            jobs = [asyncio.create_task(ask("first", work.decode(plain(1), order=9)))]
            await asyncio.sleep(0)
            jobs.append(asyncio.create_task(ask("preview", work.pool.preview(BODY, 30))))
            for order in (3, 1, 2, 1):
                jobs.append(asyncio.create_task(ask(f"{order}", work.decode(plain(1), order))))
            await asyncio.sleep(0)
        await asyncio.gather(*jobs)
        return ended

    assert work.run(asked()) == ["first", "1", "1", "2", "3", "preview"]


def test_previews_leave_a_worker_to_the_frames() -> None:
    with working(workers=2) as several:

        async def asked() -> list[bool]:
            endless = run_length_bitmap(4000, 4000)
            previews = [asyncio.create_task(several.pool.preview(endless, 30)) for _ in range(4)]
            await asyncio.sleep(0)
            await several.decode(plain(9))
            ended = [preview.done() for preview in previews]
            for preview in previews:
                preview.cancel()
            await asyncio.wait(previews)
            return ended

        assert several.run(asked()) == [False] * 4


def test_a_job_that_is_cancelled_while_it_waits_never_runs() -> None:
    with working(decode_seconds=0.2) as bounded:
        before = the_worker()

        async def asked() -> list[int]:
            async with held(before):
                first = asyncio.create_task(bounded.decode(plain(1)))
                await asyncio.sleep(0)
                endless = asyncio.create_task(bounded.decode(run_length_bitmap(4000, 4000)))
                last = asyncio.create_task(bounded.decode(plain(3), order=1))
                await asyncio.sleep(0)
                endless.cancel()
                await asyncio.wait([endless])
            return [(await job).made.pixels[0, 0, 0] for job in (first, last)]

        assert bounded.run(asked()) == [1, 3]
        assert the_worker() == before  # the other image would have killed it


@pytest.mark.parametrize("quick", [True, False])
def test_a_job_that_is_cancelled_under_way_leaves_the_next_alone(
    work: Working, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done soon, or its worker is ended: it cannot hold back jobs that somebody waits for. Either way
    it is known how long such a job takes."""
    if quick:
        monkeypatch.setattr("service.workers.pool._ABANDONED_SECONDS", 60)  # however slow this machine is
    before, of_its_own = the_worker(), Lane(work.lane.predictor)

    async def asked() -> Done[Decoded]:
        async with held(before):
            cancelled = asyncio.create_task(work.decode(plain(1), lane=of_its_own))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            following = asyncio.create_task(work.decode(plain(2)))
            await asyncio.sleep(0)
            if not quick:
                return await following
        return await following

    assert work.run(asked()).made.pixels[0, 0, 0] == 2
    assert (the_worker() == before) is quick
    assert of_its_own.pace.decode.seconds > (0 if quick else 0.04)


@asynccontextmanager
async def held(process: int) -> AsyncIterator[None]:
    """Suspends the process."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has been ended
            os.kill(process, signal.SIGCONT)


def run_length_bitmap(width: int, height: int) -> bytes:
    """An 8-bit BMP with run lengths of one, which Pillow decodes slowly in Python."""
    rows = (b"\x01\x00" * width + b"\x00\x00") * height
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return head + info + palette + rows
