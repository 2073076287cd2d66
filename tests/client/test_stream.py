"""Streams of frames: each frame gets one outcome, whatever happens to others, stream or service."""

import asyncio
import itertools
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from anyio import to_thread

from service import client
from service.client import AsyncClient, Client, Frame, Outcome
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.client.conftest import frame
from tests.e2e.serving import Running, process, serving, wait_until
from tests.service.engines import POISON, Gate
from tests.service.images import plain


def level(outcome: Outcome) -> int:
    assert outcome.answer is not None, outcome.error
    return round(255 * outcome.answer.raw_score)


def test_every_frame_gets_its_own_answer(address: str) -> None:
    with Client(address) as drd:
        outcomes = list(
            drd.stream((frame(20 + number % 230, frame_id=str(number)) for number in range(300)), 2)
        )

    assert sorted(int(outcome.frame.frame_id) for outcome in outcomes) == list(range(300))
    assert all(level(outcome) == 20 + int(outcome.frame.frame_id) % 230 for outcome in outcomes)


def test_an_asynchronous_source_and_client(address: str) -> None:
    async def camera() -> AsyncIterator[Frame]:
        for number in (10, 20, 30):
            await asyncio.sleep(0)
            yield frame(number)

    async def levels() -> list[int]:
        async with AsyncClient(address) as drd:
            return [level(outcome) async for outcome in drd.stream(camera(), window=2)]

    assert sorted(asyncio.run(levels())) == [10, 20, 30]


def test_cameras_that_wait_keep_no_other_from_being_read(address: str) -> None:
    """Even more of them than anyio has threads for all."""
    triggered, taken = threading.Event(), threading.Semaphore(0)

    def waiting() -> Iterator[Frame]:
        taken.release()
        assert triggered.wait(60)
        yield frame(10)

    async def levels() -> list[int]:
        to_thread.current_default_thread_limiter().total_tokens = 1
        async with AsyncClient(address) as drd:

            async def read(frames: Iterable[Frame]) -> list[int]:
                return [level(outcome) async for outcome in drd.stream(frames)]

            blocked = asyncio.create_task(read(waiting()))
            await asyncio.to_thread(taken.acquire)
            try:
                async with asyncio.timeout(30):
                    return await read([frame(20)])
            finally:
                triggered.set()
                await blocked

    assert asyncio.run(levels()) == [20]


def test_threads_that_wait_keep_no_stream_from_being_opened(address: str) -> None:
    """Those of asyncio, which are few."""
    done = threading.Event()

    async def levels() -> list[int]:
        with ThreadPoolExecutor(1) as only:
            asyncio.get_running_loop().set_default_executor(only)
            only.submit(done.wait, 60)
            try:
                async with AsyncClient(address) as drd, asyncio.timeout(30):
                    return [level(outcome) async for outcome in drd.stream([frame(20, deadline=5)])]
            finally:
                done.set()

    assert asyncio.run(levels()) == [20]


def test_a_failing_frame_fails_alone(address: str) -> None:
    frames = [frame(5), frame(6, image=b"no image"), frame(POISON), frame(7, product="no"), frame(8)]

    with Client(address) as drd:
        errors = {outcome.frame.frame_id: type(outcome.error) for outcome in drd.stream(frames, window=1)}

    assert errors == {
        "part 5": type(None),
        "part 6": client.BadInput,
        f"part {POISON}": client.InspectionFailed,
        "part 7": client.NotLoaded,
        "part 8": type(None),
    }


def test_a_frame_that_cannot_be_sent_fails_alone(address: str, gate: Gate) -> None:
    """Other frames in flight are still answered."""
    odd: list[dict[str, Any]] = [
        {"frame_id": "\udcfc"},
        {"product": "\ud800"},
        {"request_id": "\ud800"},
        {"request_id": "a\nb"},
        {"frame_id": "x" * 70_000},
        {"version": 2**40},
        {"version": -1},
        {"deadline": 1e8},
        {"deadline": math.inf},
        {"since": math.nan},
    ]

    gate.shut()
    with Client(address) as drd:
        outcomes = drd.stream([frame(5), *(frame(6, **more) for more in odd), frame(7)], window=2)
        failed = [next(outcomes) for _ in odd]
        gate.open()
        answered = [level(outcome) for outcome in outcomes]

    assert [type(outcome.error) for outcome in failed] == [client.BadInput] * len(odd)
    assert sorted(answered) == [5, 7]


def test_only_the_frame_that_ended_the_stream_is_too_large(running: Running) -> None:
    """It exceeds the transport's limit, so the service can't answer it in-band."""
    frames = [frame(5), frame(6, image=bytes(3_000_000)), frame(7)]

    with Client(f"grpc://{running.target}") as drd:
        alone = {outcome.frame.frame_id: outcome.error for outcome in drd.stream(frames, window=1)}
        beside = {outcome.frame.frame_id: outcome.error for outcome in drd.stream(frames, window=3)}

    assert [type(error) for error in alone.values()] == [type(None), client.TooLarge, type(None)]
    assert isinstance(beside.pop("part 6"), client.TooLarge)
    assert {type(error) for error in beside.values()} <= {type(None), client.ConnectionLost}


def test_the_window_limits_frames_in_flight(address: str, gate: Gate) -> None:
    taken = list[int]()

    def camera() -> Iterator[Frame]:
        for number in range(1, 6):
            taken.append(number)
            yield frame(number)

    gate.shut()
    with Client(address) as drd:
        outcomes = drd.stream(camera(), window=2)
        first = threading.Thread(target=lambda: next(outcomes))
        first.start()
        gate.wait_for_batch()
        under_way = len(taken)
        gate.open()
        first.join()
        rest = list(outcomes)

    assert under_way <= 2
    assert len(rest) == 4


def test_while_the_engine_hangs_every_frame_fails_in_time(address: str, gate: Gate) -> None:
    """The same frame id, sent again, gets the answer to its new picture."""
    with Client(address, retries=0) as drd:
        gate.shut()
        stuck = list(drd.stream([frame(1, frame_id="a", deadline=0.3), frame(2, frame_id="b", deadline=0.3)]))
        gate.open()
        again = drd.stream([frame(201, frame_id="a", deadline=30), frame(202, frame_id="b", deadline=30)], 1)
        answered = {outcome.frame.frame_id: level(outcome) for outcome in again}

    assert {type(outcome.error) for outcome in stuck} <= {client.DeadlinePassed, client.Refused}
    assert answered == {"a": 201, "b": 202}


@pytest.mark.parametrize("name", ["twin", ""])
def test_two_frames_of_one_name_are_not_mixed_up(address: str, name: str) -> None:
    frames = [frame(20 + number, frame_id=name) for number in range(8)]

    with Client(address) as drd:
        levels = {frames.index(outcome.frame): level(outcome) for outcome in drd.stream(frames)}

    assert levels == {number: 20 + number for number in range(8)}


def test_two_frames_of_one_request_id_are_not_mixed_up(running: Running, gate: Gate) -> None:
    gate.shut()
    with Client(f"grpc://{running.target}") as drd:
        outcomes = drd.stream([frame(1, request_id="twin"), frame(2, request_id="twin")], window=2)
        refused = next(outcomes)
        gate.open()
        answered = next(outcomes)

    assert isinstance(refused.error, client.BadInput)
    assert level(answered) == round(answered.frame is not refused.frame)


def test_responses_in_a_stream_tell_whose_they_are(running: Running) -> None:
    asked = [
        pb.InspectRequest(image=image, product="tile", request_id=name)
        for name, image in (("good", plain(5)), ("bad", b"no image"))
    ]

    with grpc.insecure_channel(running.target) as channel:
        responses = list(InspectionServiceStub(channel).InspectStream(iter(asked)))

    whose = {response.request_id: response.WhichOneof("outcome") for response in responses}
    assert whose == {"good": "result", "bad": "error"}


def test_a_frame_counts_from_when_it_is_taken_and_not_from_when_it_was_made(address: str) -> None:
    """Otherwise the last frames of a long list would be late. One at a time, so that times don't overlap."""
    frames = [frame(20 + number, frame_id=str(number)) for number in range(20)]

    with Client(address) as drd:
        began = time.monotonic()
        outcomes = list(drd.stream(frames, window=1))
        elapsed = time.monotonic() - began

    assert all(outcome.answer for outcome in outcomes)
    assert sum(outcome.seconds for outcome in outcomes) < elapsed


def test_an_error_of_the_source_is_raised_after_the_outcomes(address: str) -> None:
    def camera() -> Iterator[Frame]:
        yield frame(1)
        raise OSError("the cable is out")

    with Client(address) as drd:
        outcomes = drd.stream(camera())
        assert level(next(outcomes)) == 1
        with pytest.raises(OSError, match="the cable is out"):
            next(outcomes)


def test_a_stream_may_be_left(address: str) -> None:
    with Client(address) as drd:
        first = next(
            drd.stream(frame(20 + number % 230, frame_id=str(number)) for number in itertools.count())
        )
        assert level(first) >= 20
        assert drd.inspect(frame(9)).verdict == "OK"


def test_streams_that_were_left_keep_no_connection_open(address: str) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    window = 4
    with Client(address) as drd:
        before = open_files()
        for _ in range(100):
            for _ in drd.stream((frame(level) for level in range(8)), window):
                break
        at_both_ends = 2 * window
        wait_until(lambda: open_files() <= before + at_both_ends)
        assert drd.inspect(frame(30)).verdict == "OK"


def test_a_stream_goes_on_after_its_maximum_age(models: Path) -> None:
    ends = time.monotonic() + 1.5

    def camera() -> Iterator[Frame]:
        for number in itertools.count():
            if time.monotonic() > ends:
                return
            yield frame(20 + number % 230, frame_id=str(number), deadline=30)

    with (
        serving(models, max_connection_age_seconds=0.2) as running,
        Client(f"grpc://{running.target}", retries=100) as drd,
    ):
        outcomes = list(drd.stream(camera()))

    assert all(level(outcome) == 20 + int(outcome.frame.frame_id) % 230 for outcome in outcomes)


@pytest.mark.system
@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_stream_outlives_the_service(models: Path, door: str, free_port: int) -> None:
    """Frames fail while the service is down, and are answered again after its restart."""
    here = (f"--{door}", f"127.0.0.1:{free_port}")
    other = ("--grpc" if door == "http" else "--http", "127.0.0.1:0")
    ended = threading.Event()

    def camera() -> Iterator[Frame]:
        for number in itertools.count():
            if ended.is_set():
                return
            yield frame(200, frame_id=str(number), deadline=30)

    with Client(f"{door}://127.0.0.1:{free_port}", retries=2) as drd:
        outcomes = drd.stream(camera(), window=2)
        with process("--models", models, *here, *other) as service:
            assert level(next(outcomes)) == 200
            service.popen.send_signal(signal.SIGKILL)
            service.popen.wait()
            failed = next(outcome.error for outcome in outcomes if outcome.error)
            away = next(
                outcome.error for outcome in outcomes if isinstance(outcome.error, client.Unreachable)
            )
        with process("--models", models, *here, *other):
            assert level(next(outcome for outcome in outcomes if outcome.answer)) == 200
        ended.set()
        list(outcomes)

    assert isinstance(failed, client.ConnectionLost | client.Unreachable)
    assert away is not None


def test_a_drained_service_loses_nothing(models: Path) -> None:
    """Every frame sent during the shutdown is answered or refused; none has an unknown outcome."""
    seen = threading.Event()

    def camera() -> Iterator[Frame]:
        for number in range(400):
            if number == 50:
                seen.wait(30)
            yield frame(200, image=picture, frame_id=str(number), deadline=30)

    picture = plain(200)
    outcomes = list[Outcome]()
    with process("--models", models, DRD_LAME_DUCK_SECONDS="0.1") as service:
        with Client(f"grpc://{service.target}", retries=0) as drd:
            for outcome in drd.stream(camera(), window=8):
                outcomes.append(outcome)
                if len(outcomes) == 30:
                    service.popen.send_signal(signal.SIGTERM)
                    seen.set()
        assert service.popen.wait(30) == 0

    assert len(outcomes) == 400
    sure = (type(None), client.NotServing, client.Refused, client.Unreachable)
    assert [outcome.error for outcome in outcomes if not isinstance(outcome.error, sure)] == []
