"""TLS at both doors, with and without client certificates, and with files that change meanwhile."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.app import repeat
from service.tls import Tls, TlsError
from tests.access.certificates import Authority, Pair
from tests.e2e.serving import ANYWHERE, Running, drd_serve, process, serving, wait_until
from tests.service.engines import Gate
from tests.service.images import plain

BOTH = pytest.mark.parametrize("ask", ["http", "grpc"])


@pytest.fixture
def plant(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "plant")


def ask_http(running: Running, authority: Authority, client: Pair | None = None) -> bytes:
    """The server's certificate, seen over a connection of its own."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    url = f"https://{running.service.http[0]}/health/live"
    with httpx.Client(verify=context, timeout=30) as http, http.stream("GET", url) as answer:
        assert answer.status_code == 200
        socket: ssl.SSLSocket = answer.extensions["network_stream"].get_extra_info("ssl_object")
        return socket.getpeercert(True) or b""


def ask_grpc(running: Running, authority: Authority, client: Pair | None = None) -> None:
    pair = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *pair)
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection, and so a handshake, of its own
    with grpc.secure_channel(running.target, credentials, own) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1


def in_force(running: Running) -> ssl.SSLContext:
    assert running.service.tls is not None
    return running.service.tls.context.current


ASK = {"http": ask_http, "grpc": ask_grpc}
REFUSED = (httpx.TransportError, grpc.RpcError)


@BOTH
def test_callers_who_trust_the_authority_get_through(
    ask: str, plant: Authority, models: Path, tmp_path: Path
) -> None:
    server = plant.issue("server")
    with serving(models, **server.settings()) as running:
        ASK[ask](running, plant)
        with pytest.raises(REFUSED):
            ASK[ask](running, Authority(tmp_path / "other"))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{running.url}/health/live")  # without TLS


@BOTH
def test_client_certificates_of_the_authority_are_asked_for(
    ask: str, plant: Authority, models: Path, tmp_path: Path
) -> None:
    server, camera = plant.issue("server"), plant.issue("camera")
    stranger = Authority(tmp_path / "other").issue("stranger")
    with serving(models, **server.settings(plant.certificate)) as running:
        ASK[ask](running, plant, camera)
        for client in (None, stranger):
            with pytest.raises(REFUSED):
                ASK[ask](running, plant, client)
        ASK[ask](running, plant, camera)


@BOTH
def test_a_client_certificate_may_be_named_instead_of_its_authority(
    ask: str, plant: Authority, models: Path
) -> None:
    server, camera, other = plant.issue("server"), plant.issue("camera"), plant.issue("other")
    with serving(models, **server.settings(camera.certificate)) as running:
        ASK[ask](running, plant, camera)
        with pytest.raises(REFUSED):
            ASK[ask](running, plant, other)


@BOTH
def test_certificate_key_and_authority_change_without_a_restart(
    ask: str, plant: Authority, models: Path, tmp_path: Path
) -> None:
    """From one authority to another: what was let in is not any more, and the other way round."""
    next_plant = Authority(tmp_path / "next", "plant")
    server, camera, next_camera = plant.issue("server"), plant.issue("camera"), next_plant.issue("camera")
    old = Authority(tmp_path / "copy")
    old.certificate.write_bytes(plant.certificate.read_bytes())
    with serving(models, **server.settings(plant.certificate)) as running:
        ASK[ask](running, old, camera)
        before = in_force(running)
        other = next_plant.issue("server")
        server.certificate.write_bytes(other.certificate.read_bytes())  # for a while, not this key's
        plant.certificate.write_bytes(next_plant.certificate.read_bytes())
        server.key.write_bytes(other.key.read_bytes())
        wait_until(lambda: in_force(running) is not before)

        ASK[ask](running, next_plant, next_camera)
        with pytest.raises(REFUSED):
            ASK[ask](running, old, camera)
        with pytest.raises(REFUSED):
            ASK[ask](running, next_plant, camera)


def test_grpc_is_given_a_certificate_anew_only_when_it_has_changed(
    plant: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = list[Callable[[], object]]()

    def note(first: object, fetch: Callable[[], object], **more: object) -> None:
        fetches.append(fetch)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", note)
    server, other = plant.issue("server"), plant.issue("other")
    tls = Tls(server.certificate, server.key, None)
    tls.credentials()
    tls.refresh()
    assert fetches[0]() is None

    server.certificate.write_bytes(other.certificate.read_bytes())
    server.key.write_bytes(other.key.read_bytes())
    tls.refresh()
    assert fetches[0]() is not None
    tls.refresh()
    assert fetches[0]() is None


def test_a_certificate_whose_key_is_missing_changes_nothing(
    plant: Authority, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = plant.issue("server")
    with serving(models, **server.settings()) as running:
        before = ask_http(running, plant)
        server.certificate.write_bytes(plant.issue("other").certificate.read_bytes())
        wait_until(lambda: "the certificate in use is kept" in caplog.text)
        assert ask_http(running, plant) == before
        server.key.unlink()
        wait_until(lambda: "No such file" in caplog.text)
        assert ask_http(running, plant) == before
        os.mkfifo(server.key)
        wait_until(lambda: "it is not a regular file" in caplog.text)
        assert ask_http(running, plant) == before
        server.key.unlink()
        renewed = plant.issue("server")
        wait_until(lambda: ask_http(running, plant) != before)
    assert renewed.key.read_text() not in caplog.text
    assert "PRIVATE" not in caplog.text


def test_a_client_authority_that_is_half_written_changes_nothing_until_it_is_whole(
    plant: Authority, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One after another, the first whole: a check of the PEM alone would let it through."""
    next_plant = Authority(tmp_path / "next", "next")
    server, next_camera = plant.issue("server"), next_plant.issue("camera")
    both = plant.certificate.read_bytes() + next_plant.certificate.read_bytes()
    authorities = tmp_path / "authorities.crt"
    authorities.write_bytes(plant.certificate.read_bytes())
    with serving(models, **server.settings(authorities)) as running:
        authorities.write_bytes(both[: -len(both) // 4])
        wait_until(lambda: f"the certificate in use is kept: {authorities} can't be used" in caplog.text)
        with pytest.raises(REFUSED):
            ask_http(running, plant, next_camera)
        before = in_force(running)
        authorities.write_bytes(both)
        wait_until(lambda: in_force(running) is not before)
        ask_http(running, plant, next_camera)
        ask_http(running, plant, plant.issue("camera"))


def test_a_failure_nobody_expected_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    looks, enough = 0, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks <= 3:
            raise RuntimeError("nobody expected it")
        enough.set()

    async def follow() -> None:
        following = asyncio.create_task(repeat("certificates", look, 0))
        await asyncio.wait_for(enough.wait(), 30)
        following.cancel()

    asyncio.run(follow())
    assert caplog.text.count("RuntimeError: nobody expected it") == 1
    assert "following certificates failed" in caplog.text


def test_what_stands_goes_on_when_the_certificate_changes(
    plant: Authority, models: Path, tmp_path: Path
) -> None:
    server, other = plant.issue("server"), Authority(tmp_path / "next").issue("server")
    context = ssl.create_default_context(cafile=plant.certificate)
    with (
        serving(models, **server.settings()) as running,
        httpx.Client(verify=context, base_url=f"https://{running.service.http[0]}", timeout=30) as http,
    ):
        assert http.post("/v1/inspect?product=tile", content=plain(200)).json()["verdict"] == "NG"
        before = in_force(running)
        server.certificate.write_bytes(other.certificate.read_bytes())
        server.key.write_bytes(other.key.read_bytes())
        wait_until(lambda: in_force(running) is not before)
        # Not a new connection: that would not be trusted any more.
        assert http.post("/v1/inspect?product=tile", content=plain(9)).json()["verdict"] == "OK"
        with pytest.raises(httpx.ConnectError):
            ask_http(running, plant)


def test_the_metric_tells_when_it_expires(plant: Authority, models: Path) -> None:
    server = plant.issue("server", timedelta(days=2))
    with serving(models, admin=ANYWHERE, **server.settings()) as running:
        url = f"http://{running.service.admin[0]}/metrics"

        def days_left() -> float:
            lines = httpx.get(url).text.splitlines()
            line = next(line for line in lines if line.startswith("drd_certificate_expiry_seconds"))
            return float(line.split()[1]) / 86_400

        assert 1.9 < days_left() <= 2
        plant.issue("server", timedelta(days=5))
        wait_until(lambda: 4.9 < days_left() <= 5)


def test_of_a_chain_the_first_to_expire_counts(plant: Authority) -> None:
    server = plant.issue("server", timedelta(days=2))
    with server.certificate.open("ab") as chain:
        chain.write(plant.certificate.read_bytes())
    assert Tls(server.certificate, server.key, None).seconds_left() <= 2 * 86_400


@pytest.mark.parametrize(("hours", "told"), [(-1, True), (1, False)])
def test_an_expired_certificate_is_told_of(
    plant: Authority, caplog: pytest.LogCaptureFixture, hours: int, told: bool
) -> None:
    server = plant.issue("server", timedelta(hours=hours))
    Tls(server.certificate, server.key, None)
    assert (f"the certificate in {server.certificate} expired on" in caplog.text) == told


def test_a_trouble_with_the_files_is_logged_once_each_time(
    plant: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server = plant.issue("server")
    tls, key = Tls(server.certificate, server.key, None), server.key.read_bytes()
    for _ in range(2):
        server.key.unlink()
        tls.refresh()
        tls.refresh()
        server.key.write_bytes(key)
        tls.refresh()
    assert caplog.text.count("the certificate in use is kept") == 2


def test_files_that_change_while_they_are_read_are_not_used(
    plant: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads them again, and would use another certificate than the one whose end is told."""
    server, other, create = plant.issue("server"), plant.issue("other"), ssl.create_default_context

    def while_they_change(*arguments: Any, **options: Any) -> ssl.SSLContext:
        server.certificate.write_bytes(other.certificate.read_bytes())
        server.key.write_bytes(other.key.read_bytes())
        return create(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", while_they_change)
    with pytest.raises(TlsError, match="changed while they were read"):
        Tls(server.certificate, server.key, None)


def test_a_handshake_that_does_not_come_is_not_waited_for(plant: Authority, models: Path) -> None:
    server = plant.issue("server")
    with serving(models, head_seconds=2, **server.settings()) as running:
        with running.connected() as silent:
            assert silent.recv(1) == b""  # closed from the other side
        ask_http(running, plant)


def connected(running: Running, authority: Authority, receive_buffer: int = 65_536) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=authority.certificate)
    plain_socket = socket.socket()
    plain_socket.settimeout(30)
    plain_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    address = running.service.http[0]
    plain_socket.connect((address.host, address.port))
    return context.wrap_socket(plain_socket, server_hostname=address.host)


def test_an_idle_connection_does_not_delay_the_end(plant: Authority, models: Path) -> None:
    """A request under way then is answered, and an answer under way is sent to its end."""
    gate, server = Gate(), plant.issue("server")
    context = ssl.create_default_context(cafile=plant.certificate)

    def read_on(idle: ssl.SSLSocket, slow: ssl.SSLSocket) -> bool:
        """Opens the gate once the idle connection is being closed. False if the large answer is cut off."""
        assert idle.recv(1) == b""
        gate.open()
        answer = HTTPResponse(slow)
        answer.begin()
        return len(answer.read()) == int(answer.headers["content-length"])

    with ThreadPoolExecutor(2) as callers, ExitStack() as connections:
        with serving(models, gate.start, drain_seconds=600, **server.settings()) as running:
            idle = connections.enter_context(connected(running, plant))
            idle.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000).endswith(b"\r\n\r\n")
            slow = connections.enter_context(connected(running, plant, receive_buffer=4096))
            slow.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            gate.shut()
            url = f"https://{running.service.http[0]}/v1/inspect?product=tile"
            frame = callers.submit(httpx.post, url, content=plain(200), verify=context, timeout=60)
            gate.wait_for_batch()
            large = callers.submit(read_on, idle, slow)
        assert frame.result().json()["verdict"] == "NG"
        assert large.result()


def test_unix_sockets_stay_plain(plant: Authority, models: Path, tmp_path: Path) -> None:
    server = plant.issue("server")
    camera, gateway = tmp_path / "camera", tmp_path / "gateway"
    addresses = [f"{ANYWHERE} unix:{path}" for path in (camera, gateway)]
    with serving(models, http=addresses[0], grpc=addresses[1], **server.settings()) as running:
        ask_http(running, plant)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (camera, gateway)] == [0o660, 0o660]
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(camera))) as http:
            assert http.get("http://camera/health/live").status_code == 200


def test_what_cannot_be_used_is_said_in_one_line(plant: Authority, tmp_path: Path) -> None:
    server, other = plant.issue("server"), plant.issue("other")
    text, locked = tmp_path / "text", tmp_path / "locked"
    text.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    key = load_pem_private_key(server.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    half, later = tmp_path / "half", tmp_path / "later"
    half.write_bytes(plant.certificate.read_bytes() + other.certificate.read_bytes()[:200])
    later.write_bytes(_of_version_six(plant.certificate.read_bytes()))
    cases = {
        (server.certificate, other.key, None): "is not the key of",
        (server.certificate, locked, None): "or is encrypted",  # and nobody is asked for a password
        (server.certificate, tmp_path / "none", None): "No such file",
        (text, server.key, None): "contains no PEM certificate",
        (server.certificate, server.key, text): "contains no PEM certificate",
        (server.certificate, server.key, tmp_path / "none"): "No such file",
        (server.certificate, server.key, half): "half can't be used",
        (server.certificate, server.key, later): "contains no PEM certificate",
    }
    for files, told in cases.items():
        with pytest.raises(TlsError, match=told):
            Tls(*files)


def _of_version_six(pem: bytes) -> bytes:
    """A certificate as only a later X.509 could have it."""
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    return ssl.DER_cert_to_PEM_cert(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")).encode()


def test_the_program_serves_over_tls_and_says_where(plant: Authority, models: Path) -> None:
    server = plant.issue("server")
    files = ("--tls-certificate", server.certificate, "--tls-key", server.key)
    with process("--models", models, *files) as service:
        assert service.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=plant.certificate)
        assert httpx.get(f"{service.url}/health/ready", verify=context).status_code == 200

    server.key.write_text("")
    ended = drd_serve("--models", models, *files)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "is not the key of" in line
