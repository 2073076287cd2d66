"""The pool with compromised workers: real channels, with the test at their other end."""

import asyncio
import errno
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
import uvloop

from export.bundle import Bundle, Finding, FrameStatistics, Geometry
from service.errors import InspectionFailed, NotServing, ServiceError, TooLarge, UnreadableImage
from service.lane import Frame, Lane, Predicted
from service.settings import Settings
from service.values import Decoded, Request
from service.workers.channel import Channel, Head, shared_memory
from service.workers.front import Workers
from service.workers.image import ImageLimits
from service.workers.job import Done
from service.workers.pool import Pool
from service.workers.starting import new_worker
from service.workers.work import REGION, Bounds
from tests.bundles import make_bundle
from tests.e2e.serving import wait_until
from tests.service.family import nurseries, the_worker
from tests.service.images import plain

ROOM = 2**16
SIDE = 32
WANTED = orjson.dumps({"limits": asdict(ImageLimits(10**6, 10**4, 4)), "bounds": asdict(Bounds(30, 2**30))})
Misbehave = Callable[[socket.socket, Channel, Head], object]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as one:
        yield one


async def decode(pool: Pool, level: int = 7, *, decodes: bool = True, side: int = SIDE) -> Done[int]:
    """The grey level of a plain image that a worker has decoded."""

    def understand(head: Head, payload: memoryview) -> int:
        if len(payload) != side * side * 3 or head["width"] != SIDE:
            raise ValueError
        return payload[0]

    head = {"do": "decode", "geometry": Geometry(side, side), "declared": None}
    return await pool.ask(0, head, (plain(level),), understand, decodes=decodes, learn=nothing)


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

    async def asked(self) -> Head:
        """The nonce of the first one's job, once there is one."""
        head, _ = await asyncio.to_thread(self.channels[0].receive)
        return {"nonce": head.get("nonce")}


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for one in made.sockets:
        one.close()


def real() -> Channel:
    return new_worker(WANTED, ROOM)


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
def test_an_invalid_answer_ends_the_worker(runner: asyncio.Runner, ends: Ends, misbehave: Misbehave) -> None:
    starts = iter([ends.start, real])

    async def asked() -> int:
        pool = Pool(1, 30, lambda: next(starts)())
        await pool.start()
        job = asyncio.create_task(decode(pool))
        misbehave(ends.sockets[0], ends.channels[0], await ends.asked())
        answer = await job
        await pool.close()
        return answer.made

    assert runner.run(asked()) == 7


def test_an_unrequested_answer_ends_the_worker(runner: asyncio.Runner, ends: Ends) -> None:
    starts = iter([ends.start, real])

    async def asked() -> list[int]:
        pool = Pool(1, 30, lambda: next(starts)())
        await pool.start()
        first = asyncio.create_task(decode(pool, 1))
        nonce = await ends.asked()
        for _ in range(2):
            ends.channels[0].send(GOOD | nonce, [PIXELS])
        answers = [(await first).made, (await decode(pool, 2)).made]
        await pool.close()
        return answers

    assert runner.run(asked()) == [0, 2]


def test_a_second_answer_is_not_taken_for_that_to_the_next_job(runner: asyncio.Runner, ends: Ends) -> None:
    starts = iter([ends.start, real])

    async def asked() -> list[int]:
        pool = Pool(1, 30, lambda: next(starts)())
        await pool.start()
        jobs = [asyncio.create_task(decode(pool, level)) for level in (1, 2)]
        nonce = await ends.asked()
        for _ in range(2):  # the worker gets the next job before its second answer is read
            ends.channels[0].send(GOOD | nonce, [PIXELS])
        answers = [(await job).made for job in jobs]
        await pool.close()
        return answers

    assert runner.run(asked()) == [0, 2]


def test_a_head_that_is_too_long_ends_the_worker(runner: asyncio.Runner, ends: Ends) -> None:
    starts = iter([ends.start, real])

    async def asked() -> int:
        pool = Pool(1, 30, lambda: next(starts)())
        await pool.start()
        job = asyncio.create_task(decode(pool))
        head = orjson.dumps(GOOD | await ends.asked() | {"regions": [0] * 10_000})
        ends.memories[0][: len(PIXELS) + len(head)] = PIXELS + head
        ends.sockets[0].send(lengths(len(PIXELS), len(head)))
        answer = await job
        await pool.close()
        return answer.made

    assert runner.run(asked()) == 7


@pytest.mark.parametrize(
    ("regions", "verdict"),
    [
        (np.ones(SIDE * SIDE // 4, REGION).tobytes(), "NG"),  # the most regions there can be: a valid answer
        (np.ones(SIDE * SIDE // 4 + 1, REGION).tobytes(), "OK"),
        (np.ones(1, REGION).tobytes()[:-1], "OK"),
        (np.array([(1, 1, 1, 1, 1, np.nan)], REGION).tobytes(), "OK"),
    ],
    ids=["all", "too many", "a part of one", "not a number"],
)
def test_impossible_regions_end_the_worker(
    runner: asyncio.Runner, ends: Ends, tmp_path: Path, regions: bytes, verdict: str
) -> None:
    starts = iter([lambda *_: ends.start(), new_worker])
    heatmap = np.zeros((SIDE, SIDE), np.float32)
    numbers = {"score": 1, "raw_score": 1, "small": False, "regions": ()}
    facts = {
        "finding": {"verdict": "NG", "reason": "", "unfamiliar": ()} | numbers,
        "pictures": {"scores": heatmap.nbytes, "regions": len(regions)},
        "spent": (),
    }

    async def asked(lane: Lane) -> Finding:
        workers = Workers(Settings(models=tmp_path, workers=1), lambda *wanted: next(starts)(*wanted))
        await workers.start()
        request = Request(b"", lane.product, 0, parts=frozenset({"regions"}))
        predicted = asyncio.get_running_loop().create_future()
        decoded = Decoded(np.zeros(0, np.uint8), SIDE, SIDE, "", FrameStatistics(0, 0, 0, 1))
        frame = Frame(request, lane, 0, 0, predicted, decoded=decoded)
        job = asyncio.create_task(workers.read(frame, Predicted(heatmap, 0.1, seconds=0, batch_size=1)))
        ends.channels[0].send(facts | await ends.asked(), [bytes(heatmap.nbytes), regions])
        answer = await job
        await workers.close()
        return answer.made.finding

    with closing(Bundle.open(make_bundle(tmp_path)).start()) as predictor:
        assert runner.run(asked(Lane(predictor))).verdict == verdict


@pytest.mark.parametrize(("decodes", "failure"), [(True, UnreadableImage), (False, InspectionFailed)])
def test_a_job_on_which_two_workers_die_fails(
    runner: asyncio.Runner, ends: Ends, decodes: bool, failure: type[ServiceError]
) -> None:
    def start() -> Channel:
        if len(ends.sockets) == 2:
            return real()
        channel = ends.start()
        ends.sockets[-1].close()
        return channel

    async def asked() -> int:
        pool = Pool(1, 30, start)
        with pytest.raises(failure):
            await decode(pool, decodes=decodes)
        answer = await decode(pool)
        await pool.close()
        return answer.made

    assert runner.run(asked()) == 7


def test_without_a_worker_jobs_are_refused_until_one_starts(runner: asyncio.Runner) -> None:
    failing = [OSError("no more processes")]

    def start() -> Channel:
        if failing:
            raise failing.pop()
        return real()

    async def asked() -> tuple[list[str], int]:
        pool = Pool(1, 30, start)
        answers = await asyncio.gather(*(decode(pool) for _ in range(3)), return_exceptions=True)
        after = await decode(pool)
        await pool.close()
        return [type(answer).__name__ for answer in answers], after.made

    assert runner.run(asked()) == (["NotServing"] * 3, 7)


def test_a_start_without_a_worker_says_why(runner: asyncio.Runner) -> None:
    def start() -> Channel:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    with pytest.raises(NotServing, match="no more processes"):
        runner.run(Pool(1, 30, start).start())


def test_a_nursery_that_hangs_is_replaced(runner: asyncio.Runner) -> None:
    patience = iter([60, 0.2, 60])

    async def asked() -> int:
        pool = Pool(1, 30, lambda: new_worker(WANTED, ROOM, next(patience)))
        await pool.start()
        (nursery,) = nurseries()
        # Before it sleeps it may still hold the worker's end of the channel, which would then never close.
        wait_until(lambda: Path(f"/proc/{nursery}/stat").read_text(encoding="ascii").split()[2] == "S")
        os.kill(nursery, signal.SIGSTOP)
        os.kill(the_worker(), signal.SIGKILL)
        with pytest.raises(NotServing, match="no worker"):
            await decode(pool)
        answer = await decode(pool)
        await pool.close()
        assert nursery not in nurseries()
        return answer.made

    assert runner.run(asked()) == 7


def test_a_failed_start_neither_delays_nor_fails_jobs_of_other_workers(
    runner: asyncio.Runner, ends: Ends
) -> None:
    made, failed = list[Channel](), list[OSError]()

    def start() -> Channel:
        if len(made) == 2:
            failed.append(OSError("no more processes"))
            raise failed[-1]
        made.append(real() if made else ends.start())
        return made[-1]

    async def asked() -> list[int]:
        pool = Pool(2, 30, start)
        await pool.start()
        ends.sockets[0].close()  # one worker has died, and no new one can be started
        answers = await asyncio.gather(*(decode(pool, level) for level in range(20)))
        await pool.close()
        return [answer.made for answer in answers]

    assert runner.run(asked()) == list(range(20))
    assert len(failed) == 1  # and the start was not repeated without pause


def nothing(*_: object) -> None:
    pass


def test_a_message_that_does_not_fit_is_an_error(runner: asyncio.Runner) -> None:
    async def asked() -> int:
        pool = Pool(1, 30, real)
        with pytest.raises(TooLarge, match="larger than there is room for"):
            await pool.ask(0, {"do": "decode"}, (bytes(ROOM),), nothing, decodes=True, learn=nothing)
        with pytest.raises(InspectionFailed, match="larger than there is room for"):
            await decode(pool, side=256)
        answer = await decode(pool)
        await pool.close()
        return answer.made

    assert runner.run(asked()) == 7


def test_asking_a_closed_pool_is_refused(runner: asyncio.Runner) -> None:
    async def asked() -> None:
        pool = Pool(1, 30, real)
        await pool.close()
        with pytest.raises(NotServing, match="ending"):
            await decode(pool)

    runner.run(asked())


def test_jobs_that_wait_when_the_pool_closes_are_refused(runner: asyncio.Runner, ends: Ends) -> None:
    async def asked() -> list[object]:
        pool = Pool(1, 30, ends.start)
        await pool.start()
        jobs = [asyncio.create_task(decode(pool)) for _ in range(3)]
        await asyncio.sleep(0)
        await pool.close()
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    answers = runner.run(asked())
    assert [type(answer) for answer in answers] == [NotServing] * 3
