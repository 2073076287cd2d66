"""Both clients against a real service, through both doors."""

import asyncio
import math
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from socket import socket
from typing import Any, get_args

import pytest

from service import client
from service.client import AsyncClient, Client, Frame
from tests.bundles import make_bundle
from tests.client.conftest import frame, refusals
from tests.client.fakes import answering
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import POISON, Gate
from tests.service.images import plain


def test_an_answer_has_everything(address: str) -> None:
    body = plain(200, (40, 60))
    everything = frame(200, image=body, include=["heatmap", "mask", "regions", "overlay"], request_id="r")

    with Client(address) as drd:
        answer = drd.inspect(everything)

    assert (answer.verdict, answer.reason, answer.threshold) == ("NG", "", 0.5)
    assert (answer.request_id, answer.frame_id) == ("r", "part 200")
    assert (answer.product, answer.version, answer.engine) == ("tile", 1, "onnx-f32")
    assert round(255 * answer.raw_score) == 200
    assert (answer.width, answer.height, answer.sha256) == (60, 40, sha256(body).hexdigest())
    assert [(region.x, region.width, region.area) for region in answer.regions] == [(0, 60, 60 * 40)]
    pictures = [picture for picture in (answer.heatmap, answer.mask, answer.overlay) if picture]
    assert [picture.width for picture in pictures] == [32, 60, 60]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)
    assert answer.timings_ms.total > answer.timings_ms.infer > 0


def test_one_makes_a_request_id_where_a_frame_has_none(address: str) -> None:
    nameless = frame(200, request_id="")
    with Client(address) as drd:
        (outcome,) = drd.stream([nameless])
        assert drd.inspect(nameless).request_id
    assert outcome.answer
    assert outcome.answer.request_id


def test_a_window_for_no_frame_is_refused(address: str) -> None:
    with Client(address) as drd, pytest.raises(ValueError, match="window is 0"):
        list(drd.stream([frame(200)], window=0))


@pytest.mark.parametrize("include", [(), get_args(client.Part)])
def test_both_doors_give_the_same_answer(running: Running, include: tuple[client.Part, ...]) -> None:
    answers = list[client.Answer]()
    for address in (running.url, f"grpc://{running.target}"):
        with Client(address) as drd:
            answers.append(drd.inspect(frame(200, include=include, request_id="r")))

    http, grpc = answers
    assert http == replace(grpc, timings_ms=http.timings_ms)
    assert bool(http.regions) == bool(http.heatmap) == bool(include)


def test_the_asynchronous_client_is_the_same(address: str) -> None:
    async def ask() -> tuple[client.Answer, tuple[client.Product, ...]]:
        async with AsyncClient(address) as drd:
            return await drd.inspect(frame(30)), await drd.products()

    answer, products = asyncio.run(ask())

    assert (answer.verdict, round(255 * answer.raw_score)) == ("OK", 30)
    assert [(product.name, product.version, product.state) for product in products] == [("tile", 1, "READY")]
    assert products[0].bundle_digest == answer.bundle_digest


def test_an_image_may_be_a_bytearray(address: str) -> None:
    """As some cameras' drivers give it."""
    with Client(address) as drd:
        assert drd.inspect(frame(200, image=bytearray(plain(200)))).verdict == "NG"


def test_version_0_is_the_newest(address: str) -> None:
    with Client(address) as drd:
        assert drd.inspect(frame(200, version=0)).version == 1


def test_threads_may_share_a_client(address: str, running: Running) -> None:
    with Client(address, retries=50) as drd, ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(drd.inspect, (frame(level, deadline=30) for level in range(1, 9))))

    assert [round(255 * answer.raw_score) for answer in answers] == list(range(1, 9))


WRONG: dict[str, tuple[type[client.ClientError], Frame]] = {
    "a text": (client.BadInput, frame(1, image=b"not an image")),
    "a frame id that is too long": (client.BadInput, frame(1, frame_id="x" * 129)),
    "an unknown product": (client.NotLoaded, frame(1, product="no")),
    "an unknown version": (client.NotLoaded, frame(1, version=9)),
    "too many bytes": (client.TooLarge, frame(1, image=bytes(200_001))),
    "a frame on which the engine fails": (client.InspectionFailed, frame(POISON)),
    "a frame id that is not text": (client.BadInput, frame(1, frame_id="\udcfc")),
    "a version out of range": (client.BadInput, frame(1, version=2**40)),
    "a deadline that never comes": (client.BadInput, frame(1, deadline=math.inf)),
    "a deadline that is not a number": (client.BadInput, frame(1, deadline=math.nan)),
    "a deadline in the past": (client.DeadlinePassed, frame(1, since=-1e6)),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_have_their_type(address: str, case: str) -> None:
    kind, wrong = WRONG[case]

    with Client(address) as drd, pytest.raises(client.ClientError) as failure:
        drd.inspect(wrong)

    assert type(failure.value) is kind
    assert str(failure.value)


def test_a_late_answer_is_discarded(address: str, gate: Gate) -> None:
    gate.shut()
    with Client(address) as drd, ThreadPoolExecutor(1) as caller:
        under_way = caller.submit(drd.inspect, frame(9, deadline=30))
        gate.wait_for_batch()
        with pytest.raises((client.DeadlinePassed, client.Refused)):  # or refused beforehand
            drd.inspect(frame(10, deadline=0.3))
        gate.open()
        assert under_way.result().verdict == "OK"


def test_a_full_queue_is_retried_after_the_time_it_gave(address: str, gate: Gate, running: Running) -> None:
    gate.shut()
    lane = running.service.inspector.catalog.lane("tile")
    with Client(address, retries=1000) as drd, ThreadPoolExecutor(3) as callers:
        first = [callers.submit(drd.inspect, frame(level, deadline=60)) for level in (1, 2)]
        wait_until(lambda: lane.pending == 2)
        with Client(address, retries=0) as hasty, pytest.raises(client.Refused) as refused:
            hasty.inspect(frame(3, deadline=60))
        before = refusals(running)
        third = callers.submit(drd.inspect, frame(3, deadline=60))
        wait_until(lambda: refusals(running) > before)
        gate.open()
        answers = [answer.result() for answer in (*first, third)]

    assert refused.value.retry_after is not None
    assert [round(255 * answer.raw_score) for answer in answers] == [1, 2, 3]


@pytest.mark.parametrize("how", ["inspect", "stream"])
def test_a_client_may_be_closed_while_others_wait(address: str, gate: Gate, how: str) -> None:
    gate.shut()
    waiting = frame(1)
    with Client(address) as drd, ThreadPoolExecutor(1) as caller:
        asked = (drd.inspect, waiting) if how == "inspect" else (list, drd.stream([waiting]))
        under_way: Future[object] = caller.submit(*asked)
        gate.wait_for_batch()
        try:
            drd.close()
            with pytest.raises(client.ConnectionLost, match="closed"):
                under_way.result(timeout=30)
        finally:
            gate.open()
        with pytest.raises(client.ConnectionLost, match="closed"):
            drd.inspect(waiting)


INTERRUPTED = """
import signal, sys
from service.client import Client, Frame
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
try:
    with Client(sys.argv[1]) as drd:
        list(drd.stream([Frame(open(sys.argv[2], "rb").read(), "tile", deadline=120)]))
except KeyboardInterrupt:
    sys.exit(8)
"""


@pytest.mark.parametrize(("by", "status"), [(signal.SIGTERM, 7), (signal.SIGINT, 8)])
def test_a_stream_may_be_interrupted_while_it_waits(
    address: str, gate: Gate, tmp_path: Path, by: signal.Signals, status: int
) -> None:
    (tmp_path / "dark.png").write_bytes(plain(30))
    command = [sys.executable, "-c", INTERRUPTED, address, str(tmp_path / "dark.png")]
    gate.shut()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as popen:
        gate.wait_for_batch()
        popen.send_signal(by)
        try:
            said = popen.communicate(timeout=30)[1]
        finally:
            gate.open()

    assert (popen.returncode, said) == (status, "")


def test_an_unreachable_service_is_reported_soon_and_retried(free_port: int, door: str, models: Path) -> None:
    with Client(f"{door}://127.0.0.1:{free_port}", deadline=60, retries=1000) as drd:
        with (
            Client(f"{door}://127.0.0.1:{free_port}", retries=1) as hasty,
            pytest.raises(client.Unreachable, match=str(free_port)),
        ):
            hasty.inspect(frame(1))
        with ThreadPoolExecutor(1) as caller:
            patient = caller.submit(drd.inspect, frame(1))
            where: dict[str, Any] = {"http": (), "grpc": (), door: f"127.0.0.1:{free_port}"}
            with serving(models, **where):
                assert patient.result().verdict == "OK"


def test_a_proxy_set_for_office_use_is_not_asked(
    address: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    with Client(address, retries=0) as drd:
        assert drd.inspect(frame(1)).verdict == "OK"


def test_an_unreachable_service_is_asked_ever_more_rarely(free_port: int) -> None:
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{free_port}") as drd, pytest.raises(client.Unreachable):
        drd.inspect(frame(1))
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2


@pytest.fixture(params=["http", "grpc"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_broken_connection_is_not_retried() -> None:
    """It is unknown whether the frame was inspected, and the client says so."""
    accepted = 0

    def accept_and_hang_up() -> None:
        nonlocal accepted
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            accepted += 1
            peer.recv(1)
            peer.close()

    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=accept_and_hang_up)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as drd,
            pytest.raises(client.ConnectionLost, match=r" broke: \w"),
        ):
            drd.inspect(frame(1))
        listening.shutdown(2)
        thread.join()

    assert accepted == 1


def test_answers_of_another_server_are_rejected(running: Running) -> None:
    with Client(f"grpc://{running.url.removeprefix('http://')}") as drd, pytest.raises(client.ClientError):
        drd.inspect(frame(1))


def test_an_answer_that_cannot_be_decoded_is_unexpected() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnone"
    unexpected = pytest.raises(client.UnexpectedAnswer, match="decode")
    with answering(answer) as address, Client(address) as drd, unexpected:
        drd.products()


@pytest.mark.parametrize(("status", "kind"), [(200, client.UnexpectedAnswer), (404, client.NotLoaded)])
def test_json_too_deep_to_be_read_is_one_of_its_errors(status: int, kind: type[client.ClientError]) -> None:
    answer = b"HTTP/1.1 %d -\r\nconnection: close\r\n\r\n%s" % (status, b"[" * 100_000)
    with answering(answer) as address, Client(address) as drd, pytest.raises(kind):
        drd.products()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_unix_sockets(tmp_path: Path, scheme: str) -> None:
    make_bundle(tmp_path / "models")
    where: dict[str, Any] = {"http": (), "grpc": (), scheme: f"unix:{tmp_path}/drd.sock"}
    with serving(tmp_path / "models", **where), Client(f"{scheme}+unix:{tmp_path}/drd.sock") as drd:
        assert drd.inspect(frame(200)).verdict == "NG"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8080",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a/path",
        "grpc+unix:",
        "grpc://a?b",
        "grpc://a:0",
        "http://:secret@a",
    ],
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|[Pp]ort"):
        client.Address.parse(text)


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "schlüssel"])
def test_invalid_tokens_are_refused_before_anything_is_sent(token: str) -> None:
    with pytest.raises(ValueError, match="the token"):
        Client("http://127.0.0.1:1", token=token)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"retries": -1}, "retries is -1"),
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": math.inf}, "deadline is inf"),
        ({"deadline": math.nan}, "deadline is nan"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(wrong: client.Options, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Client("http://127.0.0.1:1", **wrong)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
@pytest.mark.parametrize("name", ["missing.pem", "text.pem"])
@pytest.mark.parametrize("option", ["ca", "certificate"])
def test_a_file_for_tls_that_is_no_good_is_named(scheme: str, name: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    file = tmp_path / name
    wrong: client.Options = {"ca": file} if option == "ca" else {"certificate": (file, file)}

    with pytest.raises(OSError, match=name):
        Client(f"{scheme}://127.0.0.1:1", **wrong)


@pytest.mark.parametrize(
    "text",
    [
        "http://a:1",
        "https://a:443",
        "grpc://[::1]:8081",
        "grpcs://a:443",
        "http+unix:/x.sock",
        "grpc+unix:/x",
    ],
)
def test_an_address_is_what_it_was(text: str) -> None:
    assert str(client.Address.parse(text)) == text
    scheme, rest = text.split(":", 1)
    assert str(client.Address.parse(f"{scheme.upper()}:{rest}")) == text
