"""The example deploy/examples/opcua_gateway.py between asyncua's client and a real service."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

import pytest
from asyncua import Client, Node, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.bundles import make_bundle
from tests.client.conftest import started, unused_port
from tests.e2e.serving import process, serving
from tests.http_server import http_server
from tests.service.engines import Gate
from tests.service.images import plain
from tests.service.loop import on_a_loop

GATEWAY = Path(__file__).parents[2] / "deploy/examples/opcua_gateway.py"
INSPECTION, INSPECT, READY = (
    ua.NodeId.from_string(f"ns=2;s=Inspection{name}") for name in ("", ".Inspect", ".Ready")
)
DARK, BRIGHT = 30, 200
FOREVER = "60000"
TAKT_MS, RESERVE_MS = 3000, 2500
"""A gateway's that has to be in time, on a machine that may be busy with other tests."""


class Said(NamedTuple):
    verdict: str
    reason: str
    score: float
    milliseconds: float


@contextmanager
def gateway(
    target: str, pictures: Path | str, *more: str | Path, takt_ms: str = FOREVER
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its URL and process. It takes pictures that were written up to a minute before the call."""
    url = f"opc.tcp://127.0.0.1:{unused_port()}"
    command: list[str | Path] = [sys.executable, GATEWAY, "--product", "tile", "--pictures", pictures]
    command += ["--to", f"grpc://{target}", "--takt-ms", takt_ms, "--picture-lead-ms", FOREVER]
    with started([*command, "--listen", url, *more], "listening") as popen:
        yield url, popen


def client(url: str) -> Client:
    return Client(url, timeout=60)


def request(part: str, picture: str, product: str = "") -> ua.CallMethodRequest:
    texts = [ua.Variant(text, ua.VariantType.String) for text in (part, picture, product)]
    return ua.CallMethodRequest(INSPECTION, INSPECT, texts)


async def inspect(plc: Client, part: str, picture: str, product: str = "") -> Said:
    (result,) = await plc.uaclient.call([request(part, picture, product)])
    return said(result)


def said(result: ua.CallMethodResult) -> Said:
    result.StatusCode.check()
    return Said(*(each.Value for each in result.OutputArguments))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "dark.png").write_bytes(plain(DARK))
    (folder / "bright.png").write_bytes(plain(BRIGHT))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service with the product `tile` listens."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    with serving(models) as service:
        yield service.target


@pytest.fixture(scope="module")
def patient(target: str, pictures: Path) -> Iterator[str]:
    """The URL of a gateway with a long takt."""
    with gateway(target, pictures) as (url, _):
        yield url


@on_a_loop
async def test_verdicts_are_the_service_s(patient: str) -> None:
    async with client(patient) as plc:
        numbers = range(40)
        answers = await asyncio.gather(
            *(inspect(plc, str(each), ("dark.png", "bright.png")[each % 2]) for each in numbers)
        )
        named = await inspect(plc, "4711", "dark.png", "tile")

    assert [each.verdict for each in answers] == ["OK", "NG"] * 20
    assert named.verdict == "OK"
    assert 0 < named.score < 0.5 < answers[1].score <= 1
    assert 0 < named.milliseconds < float(FOREVER)


@on_a_loop
async def test_what_is_no_part_of_the_service_is_not_inspected(patient: str, pictures: Path) -> None:
    os.mkfifo(pictures / "pipe")
    async with client(patient) as plc:
        answers = [
            await inspect(plc, "4711", "broken.png"),
            await inspect(plc, "4711", "pipe"),
            await inspect(plc, "4711", ""),
            await inspect(plc, "4711", "../models/tile/1/manifest.json"),
            await inspect(plc, "4711", "dark.png", "bolt"),
            await inspect(plc, "47\n11", "dark.png"),
        ]
        afterwards = await inspect(plc, "4711", "dark.png")

    assert {each.verdict for each in answers} == {"NOT INSPECTED"}
    assert {each.score for each in answers} == {1.0}
    assert all(each.reason for each in answers)
    assert afterwards.verdict == "OK"


@on_a_loop
async def test_calls_with_other_arguments_are_refused(patient: str) -> None:
    text, number = ua.Variant("dark.png", ua.VariantType.String), ua.Variant(7, ua.VariantType.Int32)
    texts, zero = ua.Variant(["dark.png"], ua.VariantType.String), ua.Variant(0, ua.VariantType.Int32)
    async with client(patient) as plc:
        for given in (
            [],
            [text] * 2,
            [text] * 4,
            [number, text, text],
            [text, texts, text],
            [text, text, zero],
        ):
            (result,) = await plc.uaclient.call([ua.CallMethodRequest(INSPECTION, INSPECT, given)])
            assert result.StatusCode.value == ua.StatusCodes.BadInvalidArgument
        method = plc.get_node(INSPECT)
        names = [
            [each.Name for each in await (await method.get_child(f"0:{side}Arguments")).read_value()]
            for side in ("Input", "Output")
        ]

    assert names == [["Part", "Picture", "Product"], list(map(str.title, Said._fields))]


@on_a_loop
async def test_calls_do_not_wait_for_each_other(target: str) -> None:
    """Neither on one connection nor in one request: a picture comes when another is asked for, too."""
    both = threading.Barrier(2)

    class Camera(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            both.wait(30)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(plain(DARK))

    with http_server(Camera) as camera, gateway(target, camera) as (url, _):
        async with client(url) as plc:
            apart = await asyncio.gather(*(inspect(plc, name, name) for name in "ab"))
            together = await plc.uaclient.call([request(name, name) for name in "cd"])
            waiting = asyncio.create_task(inspect(plc, "e", "e"))
            await plc.get_node(READY).read_value()
            last = [await inspect(plc, "f", "f"), await waiting]

    assert [each.verdict for each in (*apart, *map(said, together), *last)] == ["OK"] * 6


@on_a_loop
async def test_it_answers_before_the_takt_is_over(tmp_path: Path, pictures: Path) -> None:
    """Whatever does not come: the picture, the camera's or the service's answer, a connection."""
    make_bundle(tmp_path)
    (pictures / "old.png").write_bytes(plain(DARK))
    os.utime(pictures / "old.png", times=(0, 0))
    gate, camera = Gate(), threading.Event()

    class Hanging(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            camera.wait(30)

    in_time = ("--reserve-ms", str(RESERVE_MS))
    with serving(tmp_path, gate.start) as service, http_server(Hanging) as hanging:
        away = f"127.0.0.1:{unused_port()}"
        answers = list[Said]()
        for address, place, names in (
            (service.target, pictures, ["dark.png", "never.png", "old.png"]),
            (service.target, hanging, ["dark.png"]),
            (away, pictures, ["dark.png"]),
        ):
            with gateway(address, place, *in_time, takt_ms=str(TAKT_MS)) as (url, _):
                async with client(url) as plc, asyncio.timeout(TAKT_MS / 1000):
                    gate.shut()
                    answers += await asyncio.gather(*(inspect(plc, "4711", each) for each in names * 10))
                    gate.open()
        camera.set()

    assert {each.verdict for each in answers} == {"NOT INSPECTED"}
    assert max(each.milliseconds for each in answers) < TAKT_MS
    assert answers[1].reason == "the picture did not arrive within the takt"
    assert answers[2].reason.startswith("the picture is older than the trigger")


@on_a_loop
async def test_ready_follows_the_service(tmp_path: Path, pictures: Path) -> None:
    make_bundle(tmp_path)
    target = f"127.0.0.1:{unused_port()}"
    seen = asyncio.Queue[bool]()

    class Screen:
        def datachange_notification(self, _node: object, value: bool, _data: object) -> None:
            seen.put_nowait(value)

    with gateway(target, pictures) as (url, _):
        async with client(url) as plc:
            subscription = await plc.create_subscription(50, Screen())
            await subscription.subscribe_data_change(plc.get_node(READY))
            said = [await seen.get()]
            with process("--models", tmp_path, "--grpc", target):
                said.append(await seen.get())
                verdict = (await inspect(plc, "4711", "dark.png")).verdict
            said.append(await seen.get())

    assert said == [False, True, False]
    assert verdict == "OK"


@on_a_loop
async def test_clients_change_nothing(patient: str) -> None:
    async with client(patient) as plc:
        with pytest.raises(ua.uaerrors.BadUserAccessDenied):
            await plc.get_node(READY).write_value(True)
        with pytest.raises(ua.uaerrors.BadUserAccessDenied):
            await plc.nodes.objects.add_object(ua.NodeId.from_string("ns=2;s=Own"), "2:Own")
        with pytest.raises(ua.uaerrors.BadUserAccessDenied):
            await plc.delete_nodes([plc.get_node(INSPECTION)])
        with pytest.raises(ua.uaerrors.BadUserAccessDenied):
            await plc.uaclient.register_server(ua.RegisteredServer(ServerUri="urn:own"))
        for number in await methods_of(plc.nodes.server):
            (result,) = await plc.uaclient.call([ua.CallMethodRequest(plc.nodes.server.nodeid, number, [])])
            assert not result.StatusCode.is_good()
        assert (await inspect(plc, "4711", "dark.png")).verdict == "OK"


async def methods_of(node: Node) -> list[ua.NodeId]:
    found = [each.nodeid for each in await node.get_methods()]
    assert found
    return found


class Certificates:
    """Certificates of a server and of clients, in a folder; only that of `plc` lies in `trusted`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trusted = folder, folder / "trusted"
        self.trusted.mkdir()

    async def make(self) -> None:
        for name in ("server", "plc", "stranger"):
            await setup_self_signed_certificate(
                self.key(name),
                self.certificate(name),
                f"urn:{name}",
                "localhost",
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
                {"commonName": name},
            )
        (self.trusted / "plc").write_bytes(self.certificate("plc").read_bytes())

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key.pem"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.der"

    @property
    def options(self) -> list[str | Path]:
        certificate, key = self.certificate("server"), self.key("server")
        return ["--certificate", certificate, "--key", key, "--trusted", self.trusted]

    async def client(self, url: str, name: str, key: str = "") -> Client:
        made = client(url)
        made.application_uri = f"urn:{name}"
        await made.set_security(
            SecurityPolicyBasic256Sha256,
            self.certificate(name),
            self.key(key or name),
            server_certificate=str(self.certificate("server")),
        )
        return made


@on_a_loop
async def test_only_trusted_clients_are_served(tmp_path: Path, target: str, pictures: Path) -> None:
    certificates = Certificates(tmp_path)
    await certificates.make()
    with gateway(target, pictures, *certificates.options) as (url, _):
        (offered,) = await client(url).connect_and_get_server_endpoints()
        async with await certificates.client(url, "plc") as plc:
            before = await inspect(plc, "4711", "dark.png")
            stranger = await certificates.client(url, "stranger")
            with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
                await stranger.connect()
            liar = await certificates.client(url, "plc", key="stranger")
            with pytest.raises(ConnectionError):
                await liar.connect()
            await assert_no_session_is_taken(client(url))
            await assert_no_session_is_taken(await certificates.client(url, "stranger"))
            after = await inspect(plc, "4711", "dark.png")

    assert (before.verdict, after.verdict) == ("OK", "OK")
    assert offered.SecurityPolicyUri == SecurityPolicyBasic256Sha256.URI
    assert offered.SecurityMode == ua.MessageSecurityMode.SignAndEncrypt
    assert [each.TokenType for each in offered.UserIdentityTokens] == [ua.UserTokenType.Anonymous]
    assert offered.Server.ApplicationUri == "urn:server"


async def assert_no_session_is_taken(stranger: Client) -> None:
    """asyncua numbers sessions one after another, and leaves to a connection that of which it asked."""
    await stranger.connect_socket()
    await stranger.send_hello()
    await stranger.open_secure_channel()
    assert stranger.uaclient.protocol is not None
    for number in range(995, 1010):
        stranger.uaclient.protocol.authentication_token = ua.NodeId.from_string(f"i={number}")
        with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
            await stranger.uaclient.activate_session(ua.ActivateSessionParameters())
        with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
            await stranger.uaclient.call([request("4711", "dark.png")])
    stranger.disconnect_socket()


@on_a_loop
async def test_signals_end_it(target: str, pictures: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with gateway(target, pictures) as (url, popen):
            plc = client(url)
            await plc.connect()
            waiting = asyncio.create_task(inspect(plc, "4711", "never.png"))
            assert (await inspect(plc, "4712", "dark.png")).verdict == "OK"
            popen.send_signal(number)
            assert await asyncio.to_thread(popen.wait, 30) == 0
            with pytest.raises((ConnectionError, ua.UaError, asyncio.CancelledError)):
                await waiting
            plc.disconnect_socket()


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--listen", "opc.tcp://0.0.0.0:4840"], 2, "--open-to-anyone"),
        (["--listen", "opc.tcp://line-3:4840"], 2, "--open-to-anyone"),
        (["--listen", "http://127.0.0.1:4840"], 2, "--listen"),
        (["--certificate", "a.der"], 2, "go together"),
        (["--certificate", "a.der", "--key", "a.pem", "--trusted", "."], 1, "a.der"),
        (["--listen", "opc.tcp://192.0.2.1:4840", "--open-to-anyone"], 1, "192.0.2.1"),
        (["--to", "nowhere"], 1, "nowhere"),
    ],
)
def test_it_says_what_it_cannot_use(options: list[str], status: int, says: str) -> None:
    command: list[str | Path] = [sys.executable, GATEWAY, "--product", "tile", "--pictures", "."]

    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == status
    assert says in ended.stderr.splitlines()[-1]
    assert status == 2 or len(ended.stderr.splitlines()) == 1
