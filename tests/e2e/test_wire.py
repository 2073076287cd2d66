"""The HTTP door byte by byte: which bytes are whose body, and that answers reach callers that still send."""

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx
import pytest

from tests.access.certificates import Authority
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving, wait_until
from tests.service.images import plain

PICTURE = plain(200)
UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)
SIZED = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
LAST = LIVE + b"Connection: close\r\n\r\n"
MUCH = 30 * 2**20
"""More than the kernel takes from a caller whose connection nobody reads."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    with serving(models, receive_seconds=600) as service:
        yield service


def post(fields: bytes, body: bytes = b"", path: bytes = b"/v1/inspect?product=tile") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s" % (path, fields, body)


def sized(body: bytes, more: bytes = UPGRADE) -> bytes:
    return post(more + SIZED % len(body), body)


def chunked(body: bytes, size: int = 50) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def answers(running: Running, *writes: bytes) -> list[int]:
    """The statuses of all answers until the connection ends."""
    with running.connected() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in writes:
            connection.sendall(part)
        received = connection.makefile("rb").read()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


@pytest.mark.parametrize("behind", [sized(PICTURE, b""), sized(PICTURE), LIVE + b"\r\n"])
@pytest.mark.parametrize(
    "first",
    [
        sized(PICTURE),
        post(UPGRADE + CHUNKED, chunked(PICTURE)),
        sized(PICTURE, b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
        LIVE + UPGRADE + b"\r\n",
    ],
)
def test_a_request_that_asks_for_an_upgrade_is_read_like_any_other(
    running: Running, first: bytes, behind: bytes
) -> None:
    assert answers(running, first + behind + LAST) == [200, 200, 200]


@pytest.mark.parametrize("request_", [sized(PICTURE), post(UPGRADE + CHUNKED, chunked(PICTURE))])
def test_a_body_behind_an_upgrade_may_arrive_in_pieces(running: Running, request_: bytes) -> None:
    pieces = [request_[i : i + 7] for i in range(0, len(request_), 7)]

    assert answers(running, *pieces, LAST) == [200, 200]


def test_upgrades_in_one_write_are_all_answered_but_not_more_than_may_wait(running: Running) -> None:
    upgrade = LIVE + UPGRADE + b"\r\n"

    assert answers(running, upgrade * 16 + LAST) == [200] * 17
    assert answers(running, upgrade * 1500 + LAST) == [200] * 17


def test_a_body_behind_an_upgrade_is_not_answered_as_a_request(running: Running) -> None:
    assert answers(running, sized(LIVE + b"\r\n") + LAST) == [400, 200]
    assert answers(running, sized(LIVE + b"\r\n", UPGRADE + b"Connection: close\r\n") + LAST) == [400]
    assert answers(running, sized(LIVE + b"\r\n").replace(b"/1.1", b"/1.0", 1) + LAST) == [400]


def test_a_body_behind_an_upgrade_is_limited_and_checked(running: Running) -> None:
    assert answers(running, post(UPGRADE + SIZED % 10**9)) == [413]
    assert answers(running, post(UPGRADE + CHUNKED, b"zz\r\n")) == [400]
    assert answers(running, post(UPGRADE + CHUNKED + SIZED % 3, b"abc")) == [400]


REFUSED = {
    "/v1/inspect?product=none": {404},
    "/v1/inspect?product=tile&x=1": {422},
    "/v1/products": {405},
    "/nowhere": {404},
    "/" + "x" * 20_000: {414},
    "/v1/inspect?product=tile": {429, 504},  # 429 if the last few were answered slowly
}


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: url[:40])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refusal_reaches_a_caller_that_is_still_sending(running: Running, url: str, version: str) -> None:
    head = (
        f"POST {url} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n"
        f"X-Deadline-Ms: 1\r\nContent-Length: {MUCH}\r\n\r\n"
    )
    with running.connected() as connection:
        connection.sendall(head.encode())
        connection.sendall(bytes(MUCH))
        answer = connection.makefile("rb").read()

    assert int(answer.split()[1]) in REFUSED[url]


def test_a_refusal_reaches_urllib(running: Running) -> None:
    for size in (20_000, 1_000_000, 12_000_000, 100_000_000):  # the last is too large
        url = f"{running.url}/v1/inspect?product={'tile' if size > 64 * 2**20 else 'none'}"
        with pytest.raises(HTTPError) as failure:
            urlopen(Request(url, data=bytes(size)), timeout=30)
        failure.value.close()
        assert failure.value.code == (413 if size > 64 * 2**20 else 404)


def test_a_refusal_reaches_a_caller_that_is_still_sending_under_tls(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    authority = Authority(tmp_path / "plant")
    context = ssl.create_default_context(cafile=authority.certificate)
    with serving(tmp_path, **authority.issue("server").settings()) as running:
        address = running.service.http[0]
        with pytest.raises(HTTPError) as failure:
            urlopen(Request(f"https://{address}/nowhere", data=bytes(MUCH)), timeout=30, context=context)
        failure.value.close()
    assert failure.value.code == 404


def test_a_refusal_does_not_wait_for_the_rest_of_the_body(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(post(b"Connection: close\r\nContent-Length: 9\r\n", path=b"/nowhere"))
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 404 ")  # to its end
        connection.sendall(b"123456789" + LAST)
        assert connection.recv(1) == b""


def test_a_body_is_not_waited_for_beyond_the_deadline(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(post(b"X-Deadline-Ms: 500\r\nContent-Length: 9\r\n", b"123"))
        assert connection.recv(12) == b"HTTP/1.1 504"


EXPECTING = b"Expect: 100-continue\r\n" + SIZED % len(PICTURE)


@pytest.mark.parametrize("path", [b"/v1/inspect?product=none", b"/nowhere"])
def test_a_refusal_instead_of_100_continue_is_the_last_answer(running: Running, path: bytes) -> None:
    with running.connected() as connection:
        connection.sendall(post(EXPECTING, path=path))
        head = connection.makefile("rb").read().partition(b"\r\n\r\n")[0]  # to its end

    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nconnection: close" in head


def test_a_connection_is_kept_where_the_body_was_asked_for_or_has_come(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(post(EXPECTING))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PICTURE + post(EXPECTING, PICTURE, b"/nowhere") + LAST)
        received = connection.makefile("rb").read()

    assert re.findall(rb"HTTP/1\.1 (\d+) ", received) == [b"200", b"404", b"200"]


def connections(running: Running) -> int:
    door = running.service.http_door
    assert door is not None
    return len(door.server_state.connections)


@pytest.mark.parametrize(("silent", "missing"), [(600.0, b"456789"), (600.0, b""), (0.1, b"")])
def test_a_connection_ends_with_the_body_or_when_nothing_more_comes(
    running: Running, monkeypatch: pytest.MonkeyPatch, silent: float, missing: bytes
) -> None:
    monkeypatch.setattr("service.http.protocol._SILENT_SECONDS", silent)
    stuck = silent < 1
    body = b"123" if missing or stuck else b"123456789"
    wait_until(lambda: connections(running) == 0)
    with running.connected() as connection:
        connection.sendall(post(b"Connection: close\r\nContent-Length: 9\r\n", body, b"/nowhere"))
        assert connection.recv(12) == b"HTTP/1.1 404"
        connection.sendall(missing)
        wait_until(lambda: connections(running) == 0)


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/metrics", "/openapi.json", "/v1/products", "/v1/products/tile", "/health/live"]
)
def test_head_is_answered_wherever_get_is(running: Running, path: str) -> None:
    with httpx.Client(base_url=running.url, timeout=30) as http:
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert path == "/metrics" or head.headers["content-length"] == get.headers["content-length"]
        assert http.head("/nowhere").status_code == 404
        assert http.head("/v1/inspect").status_code == 405


def test_head_of_a_stream_ends(running: Running) -> None:
    with running.connected() as connection:
        connection.sendall(b"HEAD /v1/verdicts/events HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
        answer = connection.makefile("rb").read()

    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_a_compressed_body_is_refused_by_its_name(running: Running) -> None:
    url = f"{running.url}/v1/inspect?product=tile"
    refusal = httpx.post(url, content=PICTURE, headers={"content-encoding": "gzip"}, timeout=30)
    assert refusal.status_code == 415
    assert "Content-Encoding 'gzip'" in refusal.json()["detail"]
    assert httpx.post(url, content=PICTURE, headers={"content-encoding": "Identity"}, timeout=30).is_success


def test_answers_before_too_many_requests_are_not_lost(running: Running) -> None:
    """What comes behind them is left unread: the kernel would reset the connection."""
    assert answers(running, (LIVE + b"\r\n") * 40 + bytes(2 * MUCH)) == [200] * 17
