"""The pool with compromised workers: real channels, with the test at their other end."""

import asyncio
import errno
import mmap
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from export.bundle import Bundle, FrameStatistics, Geometry, Size
from service.errors import BadImage, InspectionFailed, NotServing, ServiceError, TooLarge
from service.lane import Lane, Pending
from service.settings import Settings
from service.values import Decoded, EngineOutput, Request
from service.workers.channel import Channel, Ended, Head, shared_memory
from service.workers.image import ImageLimits
from service.workers.pool import _MAX_WALL_TIME, Pool
from service.workers.starting import new_worker
from service.workers.worker import REGION, Bounds
from service.workers.workers import Workers
from tests.bundles import make_bundle
from tests.e2e.serving import wait_until
from tests.service.images import plain
from tests.service.loop import on_a_loop
from tests.service.processes import forkservers, the_worker

ROOM = 2**16
SIDE = 32
WANTED = orjson.dumps({"limits": asdict(ImageLimits(10**6, 10**4, 4)), "bounds": asdict(Bounds(30, 2**30))})
Misbehave = Callable[[socket.socket, Channel, Head], object]


@asynccontextmanager
async def running(count: int, start: Callable[[], Channel]) -> AsyncIterator[Pool]:
    """A pool whose workers have been started."""
    pool = Pool(count, 30, start)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def decode(pool: Pool, level: int = 7, *, decodes: bool = True, side: int = SIDE) -> int:
    """The grey level of a plain image that a worker has decoded."""

    def parse(head: Head, payload: memoryview) -> int:
        if len(payload) != side * side * 3 or head["width"] != SIDE:
            raise ValueError
        return payload[0]

    head = {"do": "decode", "geometry": Geometry(side, side), "declared": None}
    asked = pool.ask(0, head, (plain(level),), parse, decodes=decodes, learn=nothing)
    return (await asked).made


class Ends:
    """The other ends of the channels that `start` makes."""

    def __init__(self) -> None:
        self.sockets = list[socket.socket]()
        self.channels = list[Channel]()
        self.memories = list[mmap.mmap]()

    def start(self) -> Channel:
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.setblocking(False)
        memory = shared_memory(ROOM)
        self.sockets.append(other)
        self.channels.append(Channel(other, memory))
        self.memories.append(mmap.mmap(memory, 0))
        channel = Channel(own, memory)
        os.close(memory)
        return channel

    async def asked(self, number: int = 0) -> Head:
        """The nonce of its job, once there is one; by default of the first one's."""
        await asyncio.to_thread(wait_until, lambda: len(self.channels) > number)
        head, _ = await asyncio.to_thread(self.channels[number].receive)
        return {"nonce": head.get("nonce")}


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for one in made.sockets:
        one.close()


def real() -> Channel:
    return new_worker(WANTED, ROOM)


def one_by_one(*starts: Callable[[], Channel]) -> Callable[[], Channel]:
    """Starts the first worker with the first of `starts`, and so on."""
    left = iter(starts)
    return lambda: next(left)()


def lengths(payload: int, head: int) -> bytes:
    return struct.pack("!QQ", payload, head)


GOOD = {"width": SIDE, "spent": [0.0]}
PIXELS = bytes(3 * SIDE * SIDE)


@pytest.mark.parametrize(
    "misbehave",
    [
        lambda raw, *_: raw.close(),
        lambda raw, *_: raw.send(lengths(0, ROOM + 1)),
        lambda raw, *_: raw.send(lengths(2**64 - 1, 1)),
        lambda raw, *_: raw.send(lengths(3, 0)),
        lambda raw, *_: raw.send(b"short"),
        lambda raw, *_: raw.send(lengths(0, 100)),  # the head is then the image in the memory
        lambda _, channel, __: channel.send(cast(Any, [1, 2])),
        lambda _, channel, nonce: channel.send(nonce),
        lambda _, channel, __: channel.send(GOOD, [PIXELS]),
        lambda _, channel, __: channel.send(GOOD | {"nonce": "another"}, [PIXELS]),
        lambda _, channel, nonce: channel.send(GOOD | nonce, [PIXELS[:-1]]),
        lambda _, channel, nonce: channel.send(GOOD | nonce | {"spent": [-1.0]}, [PIXELS]),
        lambda _, channel, nonce: channel.send(GOOD | nonce | {"spent": [1e9]}, [PIXELS]),
        lambda _, channel, nonce: channel.send(GOOD | nonce | {"spent": ["nan"]}, [PIXELS]),
        lambda _, channel, nonce: channel.send(nonce | {"error": "SystemExit", "detail": ""}),
        lambda _, channel, nonce: channel.send(nonce | {"error": ["TooLarge"], "detail": ""}),
        lambda _, channel, nonce: channel.send(nonce | {"error": "TooLarge"}),
    ],
)
@on_a_loop
async def test_an_invalid_answer_ends_the_worker(ends: Ends, misbehave: Misbehave) -> None:
    async with running(1, one_by_one(ends.start, real)) as pool:
        job = asyncio.create_task(decode(pool))
        misbehave(ends.sockets[0], ends.channels[0], await ends.asked())
        assert await job == 7


@pytest.mark.parametrize(
    ("ended_by", "failure"), [(signal.SIGKILL, InspectionFailed), (signal.SIGSEGV, BadImage)]
)
@on_a_loop
async def test_an_image_is_not_blamed_for_workers_that_were_killed(
    ends: Ends, ended_by: signal.Signals, failure: type[ServiceError]
) -> None:
    async with running(1, ends.start) as pool:
        job = asyncio.create_task(decode(pool))
        for number in range(2):
            await ends.asked(number)
            ends.sockets[number].send(bytes([ended_by]))
        with pytest.raises(failure):
            await job


@on_a_loop
async def test_an_image_is_not_blamed_for_a_crash_on_a_slow_machine(ends: Ends) -> None:
    """The limit is for CPU time: more time may pass until another signal ends the worker."""
    seconds, over = 0.2, asyncio.Event()
    pool = Pool(1, seconds, one_by_one(ends.start, real))
    await pool.start()
    job = asyncio.create_task(decode(pool))
    await ends.asked()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()
    ends.sockets[0].send(bytes([signal.SIGSEGV]))
    assert await job == 7
    await pool.close()


def test_a_start_that_fails_keeps_no_descriptor_open() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="allocate memory"):
            new_worker(WANTED, 2**47)
    assert descriptors() == before


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGSEGV])
def test_the_fork_server_tells_what_has_ended_a_worker(ended_by: signal.Signals) -> None:
    with closing(real()) as channel:
        os.kill(the_worker(), ended_by)
        select.select([channel], [], [], 30)
        with pytest.raises(Ended) as end:
            channel.receive()
    assert end.value.signal == ended_by


@pytest.mark.parametrize("in_flight", [1, 2])
@on_a_loop
async def test_a_second_answer_is_not_taken_for_that_to_the_next_job(ends: Ends, in_flight: int) -> None:
    """With two in flight, the worker gets the next job before its second answer is read."""
    levels = (1, 2)
    async with running(1, one_by_one(ends.start, real)) as pool:
        jobs = [asyncio.create_task(decode(pool, level)) for level in levels[:in_flight]]
        nonce = await ends.asked()
        for _ in range(2):
            ends.channels[0].send(GOOD | nonce, [PIXELS])
        answers = [await job for job in jobs]
        answers += [await decode(pool, level) for level in levels[in_flight:]]
    assert answers == [0, 2]


@on_a_loop
async def test_a_head_that_is_too_long_ends_the_worker(ends: Ends) -> None:
    async with running(1, one_by_one(ends.start, real)) as pool:
        job = asyncio.create_task(decode(pool))
        head = orjson.dumps(GOOD | await ends.asked() | {"regions": [0] * 10_000})
        ends.memories[0][: len(PIXELS) + len(head)] = PIXELS + head
        ends.sockets[0].send(lengths(len(PIXELS), len(head)))
        assert await job == 7


@pytest.mark.parametrize(
    ("regions", "lacking", "verdict"),
    [
        (np.ones(SIDE * SIDE // 4, REGION).tobytes(), 0, "NG"),  # the most there can be: a valid answer
        (np.ones(SIDE * SIDE // 4 + 1, REGION).tobytes(), 0, "OK"),
        (np.ones(1, REGION).tobytes()[:-1], 0, "OK"),
        (np.ones(1, REGION).tobytes(), REGION.itemsize, "OK"),
        (np.array([(1, 1, 1, 1, 1, np.nan)], REGION).tobytes(), 0, "OK"),
    ],
    ids=["all", "too many", "a part of one", "fewer than it says", "not a number"],
)
@on_a_loop
async def test_impossible_regions_end_the_worker(
    ends: Ends, tmp_path: Path, regions: bytes, lacking: int, verdict: str
) -> None:
    starts = iter([lambda *_: ends.start(), new_worker])
    heatmap = np.zeros((SIDE, SIDE), np.float32)
    numbers = {"score": 1, "raw_score": 1, "small": False, "regions": ()}
    facts = {
        "finding": {"verdict": "NG", "reason": "", "unfamiliar": ()} | numbers,
        "pictures": {"scores": heatmap.nbytes, "regions": len(regions) + lacking},
        "spent": (),
    }
    workers = Workers(Settings(models=tmp_path, workers=1), lambda *wanted: next(starts)(*wanted))
    await workers.start()
    with closing(Bundle.open(make_bundle(tmp_path)).start()) as predictor:
        lane = Lane(predictor)
        request = Request(b"", lane.product, 0, parts=frozenset({"regions"}))
        predicted = asyncio.get_running_loop().create_future()
        pending = Pending(request, lane, 0, 0, predicted)
        pending.decoded = Decoded(np.zeros(0, np.uint8), Size(SIDE, SIDE), "", FrameStatistics(0, 0, 0, 1))
        job = asyncio.create_task(workers.read(pending, EngineOutput(heatmap, 0.1, seconds=0, batch_size=1)))
        ends.channels[0].send(facts | await ends.asked(), [bytes(heatmap.nbytes), regions])
        assert (await job).made.finding.verdict == verdict
    await workers.close()


@pytest.mark.parametrize(("decodes", "failure"), [(True, BadImage), (False, InspectionFailed)])
@on_a_loop
async def test_a_job_on_which_two_workers_die_fails(
    ends: Ends, decodes: bool, failure: type[ServiceError]
) -> None:
    def dying() -> Channel:
        channel = ends.start()
        ends.sockets[-1].close()
        return channel

    pool = Pool(1, 30, one_by_one(dying, dying, real))
    with pytest.raises(failure):
        await decode(pool, decodes=decodes)
    assert await decode(pool) == 7
    await pool.close()


@on_a_loop
async def test_without_a_worker_jobs_are_refused_until_one_starts() -> None:
    pool = Pool(1, 30, one_by_one(failing, real))
    answers = await asyncio.gather(*(decode(pool) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotServing] * 3
    assert await decode(pool) == 7
    await pool.close()


@on_a_loop
async def test_a_start_without_a_worker_says_why() -> None:
    with pytest.raises(NotServing, match="no more processes"):
        await Pool(1, 30, failing).start()


@on_a_loop
async def test_a_fork_server_that_hangs_is_replaced() -> None:
    seconds = iter([60, 0.2, 60])
    async with running(1, lambda: new_worker(WANTED, ROOM, next(seconds))) as pool:
        (forkserver,) = forkservers()
        # Before it sleeps it may still hold the worker's end of the channel, which would then never close.
        wait_until(lambda: Path(f"/proc/{forkserver}/stat").read_text(encoding="ascii").split()[2] == "S")
        os.kill(forkserver, signal.SIGSTOP)
        os.kill(the_worker(), signal.SIGKILL)
        with pytest.raises(NotServing, match="no worker"):
            await decode(pool)
        assert await decode(pool) == 7
    assert forkserver not in forkservers()


@on_a_loop
async def test_a_failed_start_neither_delays_nor_fails_jobs_of_other_workers(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.workers.pool._PAUSE_SECONDS", 60)
    starts = iter([ends.start, real])
    failed = 0

    def start() -> Channel:
        nonlocal failed
        if (able := next(starts, None)) is not None:
            return able()
        failed += 1
        return failing()

    async with running(2, start) as pool:
        ends.sockets[0].close()  # one worker has died, and no new one can be started
        assert await asyncio.gather(*(decode(pool, level) for level in range(20))) == list(range(20))
    assert failed == 1  # and the start was not repeated without pause


@on_a_loop
async def test_the_time_limit_of_a_job_ends_with_it() -> None:
    seconds = 0.05
    pool = Pool(1, seconds, real)
    await pool.start()
    before, over = the_worker(), asyncio.Event()
    assert await decode(pool) == 7
    asyncio.get_running_loop().call_later(_MAX_WALL_TIME * seconds, over.set)  # after the job's own limit
    await over.wait()
    assert await decode(pool) == 7
    assert the_worker() == before
    await pool.close()


@on_a_loop
async def test_a_job_whose_worker_dies_goes_to_another_if_no_new_one_starts(ends: Ends) -> None:
    starts = iter([real, ends.start])
    async with running(2, lambda: next(starts, failing)()) as pool:
        job = asyncio.create_task(decode(pool))
        await ends.asked()
        ends.sockets[0].close()
        assert await job == 7


@on_a_loop
async def test_after_a_pause_another_start_is_tried(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.workers.pool._PAUSE_SECONDS", 0.05)
    async with running(2, one_by_one(ends.start, ends.start, failing, real)) as pool:
        jobs = [asyncio.create_task(decode(pool, 7)) for _ in range(2)]
        busy = await ends.asked(0)
        await ends.asked(1)
        ends.sockets[1].close()
        (repeated,), _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        assert await repeated == 7
        ends.channels[0].send(GOOD | busy, [PIXELS])
        assert sorted(await asyncio.gather(*jobs)) == [0, 7]


@on_a_loop
async def test_a_worker_that_starts_while_the_pool_closes_is_ended(ends: Ends) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def slow() -> Channel:
        begun.set()
        may_go_on.wait(10)
        return ends.start()

    pool = Pool(1, 30, slow)
    job = asyncio.create_task(decode(pool))
    await asyncio.to_thread(begun.wait)
    closing_pool = asyncio.create_task(pool.close())
    with pytest.raises(NotServing, match="ending"):
        await job
    may_go_on.set()
    await closing_pool
    with pytest.raises(Ended):
        ends.channels[0].receive()


def failing() -> Channel:
    raise BlockingIOError(errno.EAGAIN, "no more processes")


def nothing(*_: object) -> None:
    pass


@on_a_loop
async def test_a_message_that_does_not_fit_is_an_error() -> None:
    async with running(1, real) as pool:
        with pytest.raises(TooLarge, match="larger than there is room for"):
            await pool.ask(0, {"do": "decode"}, (bytes(ROOM),), nothing, decodes=True, learn=nothing)
        with pytest.raises(InspectionFailed, match="larger than there is room for"):
            await decode(pool, side=256)
        assert await decode(pool) == 7


@on_a_loop
async def test_asking_a_closed_pool_is_refused() -> None:
    pool = Pool(1, 30, real)
    await pool.close()
    with pytest.raises(NotServing, match="ending"):
        await decode(pool)


@on_a_loop
async def test_jobs_that_wait_when_the_pool_closes_are_refused(ends: Ends) -> None:
    async with running(1, ends.start) as pool:
        jobs = [asyncio.create_task(decode(pool)) for _ in range(3)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotServing] * 3
