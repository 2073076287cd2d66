"""Who is at the doors during a soak: callers whose every answer is checked, and hostile ones."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle

import grpc
import httpx

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.bundles import score_of
from tests.hostile.corpus import corpus
from tests.service.images import plain

PATH = "/v1/inspect?product=tile&include="
LEVEL = 100
_TOLERANCE = 1e-4


@dataclass
class Doors:
    """Where the service listens, and what its callers have seen of it."""

    url: str
    target: str
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    overloaded: threading.Event = field(default_factory=threading.Event)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str) -> None:
        with self._counting:
            self.seen[what] += 1

    def complain(self, what: str) -> None:
        with self._counting:
            self.wrong.append(what)

    def refused(self, who: str, why: str) -> None:
        """A good caller was refused: right under overload, and only then."""
        self.note(f"{who}: refused")
        if not self.overloaded.is_set():
            self.complain(f"{who} was refused without need: {why}")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)


def check(doors: Doors, who: str, level: int, version: int, raw_score: float) -> None:
    """The score of an answer identifies its frame, and the version its model."""
    right = score_of(level, version)
    doors.note(f"{who}: right" if abs(raw_score - right) < _TOLERANCE else f"{who}: WRONG")
    if abs(raw_score - right) >= _TOLERANCE:
        doors.complain(f"{who}: {raw_score} instead of {right} from version {version}")


def http_caller(doors: Doors) -> None:
    with httpx.Client(base_url=doors.url, timeout=60) as http:
        for number in count():
            if doors.ended.is_set():
                return
            level = 1 + number % LEVEL
            answer = http.post(PATH, content=plain(level, (32, 32), "JPEG" if number % 2 else "PNG"))
            if answer.status_code in (429, 503):
                doors.refused("HTTP", answer.text)
                doors.ended.wait(0.01)
            elif answer.status_code != 200:
                doors.complain(f"HTTP: {answer.status_code} {answer.text}")
            else:
                check(doors, "HTTP", level, answer.json()["version"], answer.json()["raw_score"])


def grpc_caller(doors: Doors) -> None:
    with grpc.insecure_channel(doors.target) as channel:
        stub = InspectionServiceStub(channel)
        for number in count():
            if doors.ended.is_set():
                return
            level = 1 + number % LEVEL
            try:
                answer = stub.Inspect(
                    pb.InspectRequest(image=plain(level), product="tile", include=[""]), timeout=60
                )
            except grpc.RpcError as error:
                _refused(doors, "gRPC", error)
            else:
                check(doors, "gRPC", level, answer.version, answer.raw_score)


def _refused(doors: Doors, who: str, error: grpc.RpcError) -> None:
    if error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
        doors.refused(who, str(error))
        doors.ended.wait(0.01)
    else:
        doors.complain(f"{who}: {error}")


def stream_caller(doors: Doors) -> None:
    """Streams of 200 frames, one after the other; in each, one frame is no image."""

    def frames() -> Iterator[pb.InspectRequest]:
        for level in range(1, 201):
            image = b"text" if level == 100 else plain(level % LEVEL)
            yield pb.InspectRequest(image=image, product="tile", frame_id=str(level), include=[""])

    with grpc.insecure_channel(doors.target) as channel:
        while not doors.ended.is_set():
            answered = set[str]()
            for answer in InspectionServiceStub(channel).InspectStream(frames(), timeout=300):
                answered.add(answer.frame_id)
                level = int(answer.frame_id)
                if answer.WhichOneof("outcome") == "result":
                    check(doors, "stream", level % LEVEL, answer.result.version, answer.result.raw_score)
                elif answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]:
                    doors.refused("stream", answer.error.message)
                elif level != 100:
                    doors.complain(f"stream: {answer.error.message}")
            if len(answered) != 200:
                doors.complain(f"stream: {len(answered)} of 200 frames were answered")


def canceller(doors: Doors) -> None:
    """Leaves again, while sending or while waiting."""
    chance, body = random.Random(1), plain(LEVEL + 1)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with grpc.insecure_channel(doors.target) as channel:
        stub = InspectionServiceStub(channel)
        while not doors.ended.wait(chance.random() / 20):
            with socket.create_connection(doors.address, timeout=60) as connection:
                connection.sendall((head + body)[: chance.randrange(1, len(head) + len(body) + 1)])
                doors.ended.wait(chance.random() / 100)
            call = stub.Inspect.future(pb.InspectRequest(image=body, product="tile"))
            doors.ended.wait(chance.random() / 100)
            call.cancel()
            doors.note("cancelled")


def hostile_caller(doors: Doors) -> None:
    """The hostile corpus, over and over."""
    with httpx.Client(base_url=doors.url, timeout=120) as http:
        for case in cycle(list(corpus(seed=1))):
            if doors.ended.is_set():
                return
            headers = {"Content-Type": case.content_type}
            answer = http.post("/v1/inspect?product=tile", content=case.body, headers=headers)
            doors.note(f"hostile: {answer.status_code}")
            if answer.status_code >= 500 and answer.status_code not in (503, 504):
                doors.complain(f"{case.name}: {answer.text}")


def slow_caller(doors: Doors) -> None:
    """Fifty connections: silent, or with half a head, half a body or an answer that nobody reads."""
    chance = random.Random(2)
    beginnings = (
        b"",
        b"GET / HTTP/1.1\r\nHost:",
        b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc",
        b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 5,
    )
    held = list[socket.socket]()
    while not doors.ended.wait(0.1):
        connection = socket.create_connection(doors.address, timeout=60)
        connection.sendall(chance.choice(beginnings))
        held.append(connection)
        doors.note("slow")
        if len(held) > 50:
            held.pop(chance.randrange(50)).close()
    for connection in held:
        connection.close()


CALLERS: tuple[Callable[[Doors], None], ...] = (
    http_caller,
    http_caller,
    grpc_caller,
    stream_caller,
    canceller,
    hostile_caller,
    slow_caller,
)


def time_to_recover(doors: Doors) -> float:
    """Seconds until a caller is served again, and goes on being, after what came before."""
    started, last_refusal = time.monotonic(), 0.0
    with httpx.Client(base_url=doors.url, timeout=60) as http:
        while (asked := time.monotonic() - started) < max(5.0, last_refusal + 3):
            status = http.post(PATH, content=plain(5)).status_code
            if status != 200:
                last_refusal = max(asked, time.monotonic() - started)
                if last_refusal > 60:
                    return last_refusal
    return last_refusal
