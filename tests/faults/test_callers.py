"""Callers and machines that misbehave while others work: nobody else notices."""

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.bundles import make_bundle
from tests.e2e.serving import Running, process, serving, wait_until
from tests.hostile.watching import taken
from tests.service.engines import Gate
from tests.service.images import plain

URL = "/v1/inspect?product=tile"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def running(models: Path, gate: Gate) -> Iterator[Running]:
    with serving(models, gate.start) as service:
        yield service


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def is_served(url: str) -> bool:
    return bool(httpx.post(f"{url}{URL}", content=plain(200), timeout=30).json()["verdict"] == "NG")


def test_a_thousand_idle_connections_at_both_doors_are_in_nobodys_way(models: Path) -> None:
    with process("--models", models) as service:
        files = taken(service.popen.pid).files
        with ExitStack() as idle:
            for _ in range(500):
                idle.enter_context(connected(service.url))
                idle.enter_context(connected(service.target))
            wait_until(lambda: taken(service.popen.pid).files >= files + 1000)
            assert is_served(service.url)
            with grpc.insecure_channel(service.target) as channel:
                request = pb.InspectRequest(image=plain(200), product="tile")
                assert InspectionServiceStub(channel).Inspect(request, timeout=30).verdict == "NG"
        wait_until(lambda: taken(service.popen.pid).files <= files + 5)


def test_a_caller_that_reads_a_byte_now_and_then_delays_nobody(running: Running) -> None:
    ended = threading.Event()
    with connected(running.url) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")

        def read() -> None:
            while not ended.wait(0.05):
                assert slow.recv(1)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert all(is_served(running.url) for _ in range(20))
        finally:
            ended.set()
            reader.join()


def test_a_stream_whose_caller_is_killed_in_the_middle_of_a_frame_frees_its_places(
    running: Running, gate: Gate
) -> None:
    lane = running.service.inspector.catalog.lane("tile")
    gate.shut()
    caller = subprocess.Popen([sys.executable, "-c", _CAMERA, running.target])
    try:
        wait_until(lambda: lane.pending == 5)
    finally:
        caller.kill()
        caller.wait()
    wait_until(lambda: lane.pending == 0)
    gate.open()

    assert is_served(running.url)


_CAMERA = """
import sys, threading, grpc
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.service.images import plain

def frames():
    for number in range(5):
        yield pb.InspectRequest(image=plain(number), product="tile", frame_id=str(number))
    yield pb.InspectRequest(image=bytes(50_000_000), product="tile")
    threading.Event().wait()

list(InspectionServiceStub(grpc.insecure_channel(sys.argv[1])).InspectStream(frames()))
"""


def test_a_connection_reset_in_the_middle_of_a_body_is_forgotten(running: Running) -> None:
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode()
    inspector = running.service.inspector
    for _ in range(20):
        with connected(running.url) as connection:
            connection.sendall(head + bytes(50_000))
            wait_until(lambda: inspector.admission.bytes == 50_000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        wait_until(lambda: inspector.admission.bytes == 0)

    assert is_served(running.url)


def test_a_caller_who_leaves_is_noticed_also_behind_a_pipelined_request(running: Running, gate: Gate) -> None:
    lane, history = running.service.inspector.catalog.lane("tile"), running.service.history
    frame = plain(200)
    inspect = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(frame)}\r\n\r\n".encode() + frame
    watch, behind = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in ("/v1/verdicts/events", "/health/live")
    )
    gate.shut()
    with connected(running.url) as caller, connected(running.url) as watcher:
        caller.sendall(inspect + behind)
        watcher.sendall(watch + behind)
        gate.wait_for_batch()
        wait_until(lambda: lane.pending == 1 and history.watchers == 1)
    cancelled = {"product": "tile", "door": "http", "outcome": "cancelled"}
    wait_until(lambda: running.sample("drd_requests_total", **cancelled) == 1)
    wait_until(lambda: lane.pending == 0 and history.watchers == 0)
    gate.open()

    assert is_served(running.url)


def test_requests_pipelined_without_end_are_not_collected(running: Running) -> None:
    with connected(running.url) as caller:
        caller.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        *answers, last = caller.makefile("rb").read().split(b"HTTP/1.1 200 OK\r\n")[1:]

    assert len(answers) == 16
    assert b"connection: close" in last
    assert not any(b"connection: close" in answer for answer in answers)


def test_a_clock_that_jumps_is_not_looked_at(tmp_path: Path) -> None:
    """The service's wall clock is put forward and back by a year with every look at it."""
    make_bundle(tmp_path / "models")
    (tmp_path / "sitecustomize.py").write_text(_JUMPING)
    path = f"{tmp_path}:{Path.cwd()}"
    with process("--models", tmp_path / "models", PYTHONPATH=path) as service:
        with httpx.Client(base_url=service.url, timeout=30) as http:
            answers = [
                http.post(URL, content=plain(200), headers={"X-Deadline-Ms": "20000"}) for _ in range(20)
            ]
        times = [line["time"][:4] for line in service.log()]

    assert [answer.json()["verdict"] for answer in answers] == ["NG"] * 20
    assert all(0 <= answer.json()["timings_ms"]["total"] < 20_000 for answer in answers)
    assert len(set(times)) > 1, "the clock did not jump"


_JUMPING = """
import itertools, time
whole, in_nanoseconds = time.time, time.time_ns
ages = itertools.cycle((0, 365 * 86400, -365 * 86400))
time.time = lambda: whole() + next(ages)
time.time_ns = lambda: in_nanoseconds() + next(ages) * 10**9
"""


@pytest.mark.system
def test_a_service_that_is_killed_while_it_loads_comes_back_with_what_is_whole(models: Path) -> None:
    with process("--models", models, DRD_WATCH_SECONDS="0.01") as service:
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                make_bundle(models)

        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            url = f"{service.url}/v1/products/tile"
            wait_until(lambda: httpx.get(url).json()["version"] >= 3)
            service.popen.kill()
            service.popen.wait()
        finally:
            stop.set()
            swapping.join()
    (models / "tile" / "999").mkdir()
    (models / "tile" / "999" / "manifest.json").write_bytes(b'{"half":')
    newest = max(int(path.name) for path in (models / "tile").iterdir() if path.name != "999")

    with process("--models", models) as again:
        product = httpx.get(f"{again.url}/v1/products/tile").json()
        assert (product["version"], product["state"]) == (newest, "READY")
        assert is_served(again.url)


def test_nothing_is_left_running_when_the_service_is_killed(models: Path) -> None:
    with process("--models", models) as service:
        assert is_served(service.url)
        family = descendants(service.popen.pid)
        assert len(family) >= 2
        service.popen.kill()
        service.popen.wait()
        wait_until(lambda: not [one for one in family if is_alive(one)])


def descendants(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(child) for one in children for child in one.read_text(encoding="ascii").split()]
    return found + [grandchild for child in found for grandchild in descendants(child)]


def is_alive(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
