"""Shutdown: everything accepted is answered, whatever is in progress."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.http import protocol
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.e2e.serving import ANYWHERE, process, serving, wait_until, without_settings
from tests.service.engines import Gate
from tests.service.images import plain
from tests.service.processes import forkservers, workers

LIVE = b"GET /health/live HTTP/1.1\r\nHost: it\r\n\r\n"


def test_sigterm_under_load_loses_nothing(models: Path) -> None:
    with process("--models", models, DRD_LAME_DUCK_SECONDS="0.3") as service:
        with ThreadPoolExecutor(8) as callers:
            answered = [callers.submit(post_until_refused, service.url, number) for number in range(8)]
            wait_until(lambda: len(service.log()) > 50)
            service.popen.send_signal(signal.SIGTERM)
            assert service.popen.wait(20) == 0
            received = [name for names in answered for name in names.result()]
        inspected = [line["request_id"] for line in service.log() if "door" in line]

    assert len(inspected) > 100
    assert sorted(received) == sorted(inspected)


LOADS_FOR_EVER = """
from export.bundle import Bundle

start = Bundle.start

def load(bundle, engine):
    while True:
        start(bundle, engine).close()
        print("loading", flush=True)

Bundle.start = load
from service.cli import main
raise SystemExit(main())
"""


def test_an_engine_that_is_being_loaded_does_not_crash_the_end(models: Path) -> None:
    options = ("--http", ANYWHERE, "--grpc", ANYWHERE, "--models", str(models))
    command = [sys.executable, "-c", LOADS_FOR_EVER, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=without_settings()) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"loading\n"
        service.terminate()
        service.stdout.read()
        assert service.wait(30) == 0


def test_a_fork_server_that_hangs_holds_neither_frames_nor_the_end(models: Path) -> None:
    """But where its only worker has died, which it would have to replace."""
    with process("--models", models, DRD_LAME_DUCK_SECONDS="0", DRD_WORKERS="1") as service:
        (forkserver,) = forkservers(service.popen.pid)
        (worker,) = workers(1, service.popen.pid)
        url, in_short = f"{service.url}/v1/inspect?product=tile", {"X-Deadline-Ms": "500"}
        os.kill(forkserver, signal.SIGSTOP)
        before = httpx.post(url, content=plain(200), timeout=30)
        os.kill(worker, signal.SIGKILL)
        answer = httpx.post(url, content=plain(7), headers=in_short, timeout=30)
        service.popen.terminate()
        ended = service.popen.wait(30)
        wait_until(lambda: not Path(f"/proc/{forkserver}").exists())

    assert (before.json()["verdict"], answer.status_code, ended) == ("NG", 504, 0)


def post_until_refused(url: str, caller: int) -> list[str]:
    """Posts frames in sequence until one fails; returns the ids of correctly answered requests."""
    answered = list[str]()
    with httpx.Client(base_url=url, timeout=20) as http, suppress(httpx.TransportError):
        while True:
            level = len(answered) % 256
            name = f"{caller}-{len(answered)}"
            answer = http.post(
                "/v1/inspect?product=tile&include=", content=plain(level), headers={"X-Request-Id": name}
            )
            assert round(255 * answer.json()["raw_score"]) == level
            answered.append(answer.json()["request_id"])
    return answered


def test_while_a_lame_duck_it_serves_but_is_not_ready(models: Path) -> None:
    with (
        process("--models", models, DRD_LAME_DUCK_SECONDS="600") as service,
        httpx.Client(base_url=service.url) as kept,
    ):
        before = kept.post("/v1/inspect?product=tile", content=plain(200))
        service.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{service.url}/health/ready").status_code == 503)
        served = kept.post("/v1/inspect?product=tile", content=plain(200))
        service.popen.send_signal(signal.SIGTERM)  # the second signal shortens the shutdown
        assert service.popen.wait(60) == 0

    assert served.json()["verdict"] == "NG"
    assert "connection" not in before.headers
    assert served.headers["connection"] == "close", (
        "the caller does not use a connection that is about to end"
    )


def test_the_last_answer_of_a_connection_is_not_lost_to_requests_behind_it(models: Path) -> None:
    """Left unread, they would have the kernel reset the connection."""
    gate, picture = Gate(), plain(200)
    head = f"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: it\r\nContent-Length: {len(picture)}\r\n\r\n"

    with serving(models, gate.start) as running, running.connected() as connection:
        door = running.service.http_door
        assert door is not None
        door.leave()
        gate.shut()
        connection.sendall(head.encode() + picture)
        gate.wait_for_batch()
        (held,) = door.server_state.connections
        connection.sendall(LIVE)
        wait_until(lambda: bool(cast(protocol.Protocol, held).pipeline))
        connection.sendall(LIVE)
        gate.open()
        received = connection.makefile("rb").read()

    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nconnection: close\r\n" in received


def test_a_long_body_behind_the_last_answer_is_read_to_its_end(models: Path) -> None:
    """Its caller may read the answer only after it has sent everything."""
    gate, picture, body = Gate(), plain(200), bytes(8_000_000)
    head = "POST /v1/inspect?product=tile HTTP/1.1\r\nHost: it\r\nContent-Length: {}\r\n\r\n"

    with serving(models, gate.start) as running, running.connected() as connection:
        door = running.service.http_door
        assert door is not None
        door.leave()
        gate.shut()
        connection.sendall(head.format(len(picture)).encode() + picture)
        gate.wait_for_batch()
        (held,) = door.server_state.connections
        connection.sendall(head.format(len(body)).encode())
        wait_until(lambda: bool(cast(protocol.Protocol, held).pipeline))
        gate.open()
        connection.sendall(body)
        received = connection.makefile("rb").read()

    assert received.count(b"HTTP/1.1 200 OK") == 1


def test_the_first_request_of_a_new_connection_is_answered(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_FIRST_REQUEST_SECONDS", 30)

    def answered_late() -> bytes:
        wait_until(refuses)
        connection.sendall(LIVE)
        return connection.makefile("rb").read()

    def refuses() -> bool:
        with suppress(ConnectionError), running.connected():
            return False
        return True

    with ThreadPoolExecutor(1) as callers:
        with serving(models) as running:
            connection = running.connected()
            door = running.service.http_door
            assert door is not None
            wait_until(lambda: len(door.server_state.connections) == 1)
            answer = callers.submit(answered_late)
        assert answer.result().startswith(b"HTTP/1.1 200")
        connection.close()


def test_a_hurried_end_leaves_requests_under_way_a_second(models: Path) -> None:
    gate = Gate()

    def answered_late(frame: Future[httpx.Response]) -> bool:
        """Lets the engine go on half a second after the shutdown began; False if it came too late."""
        wait_until(lambda: running.service.inspector.readiness.state == "DRAINING")
        answered, _ = wait([frame], timeout=0.5)
        gate.open()
        return not answered

    with ThreadPoolExecutor(2) as others:
        with serving(models, gate.start, drain_seconds=600) as running:
            gate.shut()
            url = f"{running.url}/v1/inspect?product=tile"
            frame = others.submit(httpx.post, url, content=plain(200), timeout=60)
            gate.wait_for_batch()
            late = others.submit(answered_late, frame)
            running.service.end_soon()
        assert late.result()
        assert frame.result().json().get("verdict") == "NG"


def test_frames_that_the_end_cuts_off_are_told_so_and_counted(models: Path) -> None:
    gate = Gate()
    with ThreadPoolExecutor(2) as callers:
        with serving(models, gate.start, drain_seconds=0.5, engine_hang_seconds=0.3) as running:
            gate.shut()
            url = f"{running.url}/v1/inspect?product=tile"
            over_http = callers.submit(httpx.post, url, content=plain(1), timeout=60)
            gate.wait_for_batch()
            channel = grpc.insecure_channel(running.target)
            frame = pb.InspectRequest(image=plain(2), product="tile")
            over_grpc = InspectionServiceStub(channel).Inspect.future(frame)
            lane = running.service.inspector.catalog.lane("tile")
            wait_until(lambda: len(lane.queue) == 1)
        assert over_http.result().status_code == 503
        with pytest.raises(grpc.RpcError) as ended:
            over_grpc.result(timeout=20)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.open()
        channel.close()
    for door in ("http", "grpc"):
        assert running.sample("drd_requests_total", product="tile", door=door, outcome="refused") == 1
    assert running.sample("drd_rejected_total", product="tile", reason="draining") == 2


def test_a_stream_is_answered_to_its_end(models: Path) -> None:
    sent = Counter[str]()
    stop = threading.Event()

    def frames() -> Iterator[pb.InspectRequest]:
        while not stop.is_set():
            sent["frames"] += 1
            yield pb.InspectRequest(
                image=plain(200), product="tile", frame_id=str(sent["frames"]), include=[""]
            )

    with process("--models", models, DRD_LAME_DUCK_SECONDS="0.1") as service:
        with grpc.insecure_channel(service.target) as channel:
            answers = InspectionServiceStub(channel).InspectStream(frames())
            seen = [next(answers)]
            service.popen.send_signal(signal.SIGTERM)
            code = None
            try:
                seen += answers
            except grpc.RpcError as error:
                code = error.code()
            stop.set()
        assert service.popen.wait(20) == 0

    assert code is grpc.StatusCode.UNAVAILABLE
    assert all(answer.result.verdict == "NG" for answer in seen)
    numbers = sorted(int(answer.frame_id) for answer in seen)
    assert numbers == list(range(1, len(seen) + 1))


def test_a_stream_whose_caller_has_sent_all_ends_well(models: Path) -> None:
    gate, sent = Gate(), threading.Event()
    frame = pb.InspectRequest(image=plain(200), product="tile", include=[""])

    async def stream(target: str) -> tuple[list[str], grpc.StatusCode]:
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Any = InspectionServiceStub(channel)
            answers = stub.InspectStream()
            await answers.write(frame)
            await answers.done_writing()
            await stub.ListProducts(pb.ListProductsRequest())  # read behind the stream's end
            sent.set()
            with suppress(grpc.aio.AioRpcError):  # until the service ends its streams
                while True:
                    await stub.ListProducts(pb.ListProductsRequest())
            gate.open()
            return [answer.result.verdict async for answer in answers], await answers.code()

    with ThreadPoolExecutor(1) as others:
        with serving(models, gate.start, drain_seconds=600) as running:
            gate.shut()
            told = others.submit(asyncio.run, stream(running.target))
            assert sent.wait(30)
        assert told.result() == (["NG"], grpc.StatusCode.OK)


def test_a_connection_outlives_the_streams_that_the_end_has_ended(models: Path) -> None:
    """A caller that is still writing gets the status and no broken pipe. Other calls are still served, but
    not the one by which clients find out whether they may open a stream."""
    gate = Gate()
    frame = pb.InspectRequest(image=plain(200), product="tile", include=[""])
    with ThreadPoolExecutor(1) as others, ExitStack() as channels:
        with serving(models, gate.start, drain_seconds=600) as running:
            idle, busy = (
                InspectionServiceStub(channels.enter_context(grpc.insecure_channel(running.target)))
                for _ in range(2)
            )
            waiting = threading.Event()
            first = idle.InspectStream(frame for _ in range(1) if waiting.wait(60))
            gate.shut()
            last = busy.InspectStream(iter([frame]))
            gate.wait_for_batch()

            def meanwhile() -> tuple[str | None, str | None, str]:
                with pytest.raises(grpc.RpcError) as ended:
                    next(first)
                with pytest.raises(grpc.RpcError) as asked:
                    idle.ListProducts(pb.ListProductsRequest())
                call = idle.Inspect.future(frame)
                wait_until(lambda: running.sample("drd_queue_depth", product="tile") == 2)
                gate.open()
                waiting.set()
                return ended.value.details(), asked.value.details(), call.result(timeout=20).verdict

            told = others.submit(meanwhile)
        ended, asked, verdict = told.result()
        assert next(last).result.verdict == "NG"
    assert ended
    assert "open a new one" in ended
    assert (asked, verdict) == (ended, "NG")


def test_calls_that_come_at_the_end_are_told_to_come_again(models: Path) -> None:
    """gRPC by itself would cancel them: nobody would know whether they had been inspected."""
    ending = threading.Event()
    frame = pb.InspectRequest(image=plain(200), product="tile", include=[""])

    def call_until_refused(stub: InspectionServiceStub) -> tuple[grpc.StatusCode, bool]:
        """How it ended, and whether it was said when to come again."""
        while True:
            try:
                stub.Inspect(frame, timeout=30)
                ending.set()
            except grpc.RpcError as error:
                return error.code(), "RetryInfo" in str(error.trailing_metadata())

    with ThreadPoolExecutor(8) as callers, ExitStack() as channels:
        with serving(models) as running:
            options = [("grpc.use_local_subchannel_pool", 1)]
            stubs = [
                InspectionServiceStub(channels.enter_context(grpc.insecure_channel(running.target, options)))
                for _ in range(8)
            ]
            ends = [callers.submit(call_until_refused, stub) for stub in stubs]
            assert ending.wait(30)
        assert {end.result() for end in ends} == {(grpc.StatusCode.UNAVAILABLE, True)}


def test_a_watch_of_its_health_is_told_and_does_not_hold_the_end(models: Path) -> None:
    status, code = health_pb2.HealthCheckResponse, None
    with (
        process("--models", models, DRD_LAME_DUCK_SECONDS="0", DRD_DRAIN_SECONDS="60") as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        seen = [next(watch).status]
        service.popen.send_signal(signal.SIGTERM)
        try:
            seen.extend(told.status for told in watch)
        except grpc.RpcError as error:
            code = error.code()
        assert service.popen.wait(20) == 0

    assert (seen, code) == ([status.SERVING, status.NOT_SERVING], grpc.StatusCode.UNAVAILABLE)
