"""Many streams at once, and streams that reach their maximum age."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from threading import Event, Thread

import grpc
import pytest
from PIL import Image

from service.history import NOT_INSPECTED
from service.rpc import servicer
from service.rpc.convert import response_of
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from service.rpc.stream import Stream, Turn
from service.values import Inspection
from tests.e2e.serving import serving, wait_until
from tests.service.engines import Gate
from tests.service.images import encoded, plain


def request(level: int, frame_id: str) -> pb.InspectRequest:
    return pb.InspectRequest(image=plain(level), product="tile", frame_id=frame_id, include=[""])


def test_ten_streams_at_different_speeds_each_get_their_own_answers(models: Path) -> None:

    def camera(number: int) -> list[pb.InspectStreamResponse]:
        frames = (request(1 + number, f"{number}/{frame}") for frame in range(10 * (1 + number)))
        with grpc.insecure_channel(running.target) as channel:
            return list(InspectionServiceStub(channel).InspectStream(frames))

    with serving(models, stream_window=4) as running, ThreadPoolExecutor(10) as cameras:
        answers = list(cameras.map(camera, range(10)))

    for number, own in enumerate(answers):
        assert {answer.frame_id for answer in own} == {
            f"{number}/{frame}" for frame in range(10 * (1 + number))
        }
        assert {round(255 * answer.result.raw_score) for answer in own} == {1 + number}


def test_a_bug_fails_its_frame_and_not_its_stream(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def broken(inspection: Inspection, request_id: str, frame_id: str) -> pb.InspectResponse:
        if frame_id == "1":
            raise ZeroDivisionError
        return response_of(inspection, request_id, frame_id)

    monkeypatch.setattr(servicer, "response_of", broken)
    with serving(models) as running, grpc.insecure_channel(running.target) as channel:
        frames = (request(2, str(number)) for number in range(4))
        answers = list(InspectionServiceStub(channel).InspectStream(frames))

    codes = {answer.frame_id: answer.error.code for answer in answers}
    assert codes == {"0": 0, "1": grpc.StatusCode.INTERNAL.value[0], "2": 0, "3": 0}


def test_a_stream_that_is_cut_leaves_no_frame_behind() -> None:
    """Frames still answered then, as the service does what the shutdown overtakes, wait for no turn."""
    under_way = asyncio.Event()

    async def requests() -> AsyncIterator[pb.InspectRequest]:
        for number in range(2):
            yield request(2, str(number))

    async def answer(request: pb.InspectRequest, turn: Turn) -> pb.InspectStreamResponse:
        if request.frame_id == "1":
            under_way.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return pb.InspectStreamResponse(frame_id=request.frame_id)

    async def cut() -> None:
        async with aclosing(Stream(requests(), answer, window=2).responses()) as responses:
            assert (await anext(responses)).frame_id == "0"
            await under_way.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        _, left = await asyncio.wait(others, timeout=10)
        assert not left

    asyncio.run(cut())


def test_a_greedy_stream_takes_its_window_and_no_more(models: Path) -> None:
    gate = Gate()

    def frames() -> Iterator[pb.InspectRequest]:
        yield request(2, "0")
        gate.wait_for_batch()  # the engine is busy with this one: all others are queued
        yield from (request(2, str(number)) for number in range(1, 50))

    with (
        serving(models, gate.start, stream_window=4) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        gate.shut()
        stub = InspectionServiceStub(channel)
        greedy = stub.InspectStream(frames())
        lane = running.service.inspector.catalog.lane("tile")
        wait_until(lambda: len(lane.queue) == 3)
        modest = stub.Inspect.future(request(9, "modest"))
        wait_until(lambda: len(lane.queue) == 4)
        assert lane.pending == 5
        gate.open()
        assert modest.result(timeout=20).frame_id == "modest"
        assert len(list(greedy)) == 50

    place = next(place for place, batch in enumerate(gate.batches) if 9 in batch)
    assert place <= 2


def test_no_more_frames_wait_unread_however_many_have_passed(models: Path) -> None:
    gate, shut = Gate(), Event()
    image = encoded(Image.effect_noise((128, 128), 90))  # 17 KiB, so that 64 KiB are not even four
    sent = list[int]()

    def frames() -> Iterator[pb.InspectRequest]:
        for _ in range(500):  # gRPC measures what the connection can carry
            yield pb.InspectRequest(image=image, product="unknown")
        shut.wait(60)
        for number in range(200):
            sent.append(number)
            yield pb.InspectRequest(image=image, product="tile", include=[""])

    with (
        serving(models, gate.start, stream_window=4) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        answers = list[pb.InspectStreamResponse]()
        responses = InspectionServiceStub(channel).InspectStream(frames())
        reader = Thread(target=lambda: answers.extend(responses))
        reader.start()
        wait_until(lambda: len(answers) == 500)
        gate.shut()
        shut.set()
        gate.wait_for_batch()
        with pytest.raises(AssertionError):
            wait_until(lambda: len(sent) > 20, seconds=1)
        gate.open()
        reader.join(60)

    assert len(answers) == 700


def test_a_stream_that_grew_old_is_answered_and_asked_to_reconnect(models: Path) -> None:
    sent = list[str]()

    def frames() -> Iterator[pb.InspectRequest]:
        while True:
            sent.append(str(len(sent)))
            yield request(200, sent[-1])

    seen = list[str]()
    with (
        serving(models, max_connection_age_seconds=1) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        answers = InspectionServiceStub(channel).InspectStream(frames())
        with pytest.raises(grpc.RpcError) as ended:
            seen.extend(answer.frame_id for answer in answers)

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(seen) > 5
    assert sorted(seen, key=int) == sent[: len(seen)]


@pytest.mark.system
def test_a_waiting_stream_may_ping_every_ten_seconds(models: Path) -> None:
    ended = Event()
    often = [("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0)]

    def frames() -> Iterator[pb.InspectRequest]:
        yield request(200, "before")
        if not ended.wait(55):  # a server that minds says so at the third ping
            yield request(200, "after")

    with serving(models) as running, grpc.insecure_channel(running.target, often) as channel:
        answers = InspectionServiceStub(channel).InspectStream(frames())
        answers.add_callback(ended.set)
        assert [answer.frame_id for answer in answers] == ["before", "after"]


def test_a_verdict_that_waits_for_a_slow_reader_past_its_deadline_is_not_given(models: Path) -> None:
    gate = Gate()
    large = encoded(Image.effect_noise((1500, 1500), 90))  # so is its overlay: gRPC buffers one or two …
    no_growing_window = [("grpc.http2.bdp_probe", 0)]  # … if its window does not grow with what it measures

    def frames() -> Iterator[pb.InspectRequest]:
        for number in range(3):
            yield pb.InspectRequest(
                image=large, product="tile", frame_id=f"large {number}", include=["overlay"]
            )
        wait_until(lambda: sum(map(len, gate.batches)) == 3 and lane.pending == 0)
        late = request(2, "late")
        late.deadline_ms = 2000
        yield late

    def series(name: str, **labels: str) -> float:
        return running.sample(name, product="tile", **labels)

    with (
        serving(models, gate.start) as running,
        grpc.insecure_channel(running.target, no_growing_window) as channel,
    ):
        lane = running.service.inspector.catalog.lane("tile")
        answers = InspectionServiceStub(channel).InspectStream(frames())
        wait_until(lambda: series("drd_deadline_missed_total") == 1)
        given = {answer.frame_id: answer for answer in answers}
        wait_until(lambda: series("drd_requests_total", door="grpc", outcome="ok") == 3)

    assert all(given[f"large {number}"].result.overlay.data for number in range(3))
    assert given["late"].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert series("drd_requests_total", door="grpc", outcome="expired") == 1
    assert running.service.history.counts["tile"][NOT_INSPECTED] == 1


def test_a_stream_that_nobody_reads_gives_back_what_it_holds(models: Path) -> None:
    large = encoded(Image.effect_noise((1500, 1500), 90))
    over = Event()

    def frames() -> Iterator[pb.InspectRequest]:
        for number in range(12):
            yield pb.InspectRequest(
                image=large, product="tile", frame_id=f"large {number}", include=["overlay"]
            )
        over.wait(60)

    with serving(models, answer_seconds=2) as running, grpc.insecure_channel(running.target) as channel:
        answers = InspectionServiceStub(channel).InspectStream(frames())
        answers.add_callback(over.set)
        next(answers)

        def count(outcome: str) -> float:
            return running.sample("drd_requests_total", product="tile", door="grpc", outcome=outcome)

        wait_until(lambda: count("ok") + count("cancelled") == 12)
        assert count("cancelled") > 0
        assert running.service.inspector.admission.bytes == 0
        with pytest.raises(grpc.RpcError, match="not read within 2 s"):
            list(answers)


def test_a_stream_that_is_stopped_before_its_first_turn_reads_nothing() -> None:
    read = list[str]()

    async def requests() -> AsyncIterator[pb.InspectRequest]:
        for number in range(9):
            read.append(str(number))
            yield request(200, str(number))

    async def answer(message: pb.InspectRequest, turn: Turn) -> pb.InspectStreamResponse:
        return pb.InspectStreamResponse(frame_id=message.frame_id)

    async def stopped_at_once() -> list[pb.InspectStreamResponse]:
        stream = Stream(requests(), answer, window=4)
        stream.stop_reading()
        return [response async for response in stream.responses()]

    assert asyncio.run(stopped_at_once()) == []
    assert read == []


def test_a_frame_that_arrives_as_its_stream_is_stopped_is_answered() -> None:
    async def answer(message: pb.InspectRequest, turn: Turn) -> pb.InspectStreamResponse:
        return pb.InspectStreamResponse(frame_id=message.frame_id)

    async def stopped_as_it_arrives() -> list[str]:
        waited_for = asyncio.Event()
        second = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[pb.InspectRequest]:
            yield request(200, "0")
            waited_for.set()
            yield await second

        stream = Stream(requests(), answer, window=4)
        async with aclosing(stream.responses()) as responses:
            seen = [await anext(responses)]
            await waited_for.wait()
            second.set_result(request(200, "1"))
            stream.stop_reading()
            seen += [response async for response in responses]
        return [response.frame_id for response in seen]

    assert asyncio.run(stopped_as_it_arrives()) == ["0", "1"]
