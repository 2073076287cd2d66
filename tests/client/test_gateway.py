"""The example deploy/examples/mqtt_gateway.py between a real mosquitto and a real service."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.bundles import make_bundle
from tests.client.conftest import started, unused_port
from tests.e2e.serving import process, serving, wait_until
from tests.http_server import http_server
from tests.service.engines import Gate
from tests.service.images import plain

GATEWAY = Path(__file__).parents[2] / "deploy/examples/mqtt_gateway.py"
DARK, BRIGHT = 30, 200
FOREVER, SHORT = "60000", "500"

pytestmark = pytest.mark.system


@contextmanager
def broker(port: int) -> Iterator[None]:
    with started(["mosquitto", "-p", str(port), "-v"], " running\n"):
        yield


@contextmanager
def gateway(
    port: int, target: str, pictures: Path | str, takt_ms: str, lead_ms: str = FOREVER
) -> Iterator[subprocess.Popen[str]]:
    command: list[str | Path] = [sys.executable, GATEWAY, "--product", "tile", "--pictures", pictures]
    command += ["--broker", f"127.0.0.1:{port}", "--to", f"grpc://{target}", "--takt-ms", takt_ms]
    command += ["--picture-lead-ms", lead_ms]
    with started(command, "connected") as popen:
        yield popen


class Line:
    """The line's MQTT client: sends triggers, collects verdicts by part and the gateway's states."""

    def __init__(self, port: int) -> None:
        self.said = dict[str, list[dict[str, Any]]]()
        self.gateway = list[str]()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [("line/+/verdict", 0), ("line/gateway", 0)]
        )
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self._hear(message)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(30)

    def _hear(self, message: mqtt.MQTTMessage) -> None:
        if message.topic == "line/gateway":
            self.gateway.append(message.payload.decode())
            return
        said = json.loads(message.payload)
        self.said.setdefault(said["part"], []).append(said)

    def trigger(self, part: str, picture: str, *, retain: bool = False, **more: object) -> None:
        self.publish(json.dumps({"part": part, "picture": picture} | more), retain=retain)

    def publish(self, payload: str, *, retain: bool = False) -> None:
        self._client.publish("line/7/trigger", payload, retain=retain)

    def verdict(self, part: str) -> str:
        """Waits for the part's only verdict."""
        wait_until(lambda: part in self.said)
        return str(self.said[part][0]["verdict"])

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def line(port: int) -> Iterator[Line]:
    opened = Line(port)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "dark.png").write_bytes(plain(DARK))
    (folder / "bright.png").write_bytes(plain(BRIGHT))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


class OldServer(SimpleHTTPRequestHandler):
    """Gives times in C's form, which HTTP allows."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return time.asctime(time.gmtime(timestamp))


class OddServer(SimpleHTTPRequestHandler):
    """Gives times of another zone, which HTTP forbids."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(datetime.fromtimestamp(timestamp or time.time(), timezone(timedelta(hours=1))))


SERVERS = {"URL": SimpleHTTPRequestHandler, "URL of an old server": OldServer, "URL of an odd one": OddServer}


@pytest.fixture(params=["folder", *SERVERS])
def place(request: pytest.FixtureRequest, pictures: Path) -> Iterator[Path | str]:
    """Where the gateway looks for pictures."""
    if request.param == "folder":
        yield pictures
        return
    with http_server(partial(SERVERS[request.param], directory=pictures)) as url:
        yield url


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models"


def test_each_trigger_gets_its_verdict(free_port: int, models: Path, pictures: Path) -> None:
    with broker(free_port), serving(models) as service, line(free_port) as parts:
        parts.trigger("retained", "dark.png", retain=True)
        with gateway(free_port, service.target, pictures, FOREVER):
            for number in range(40):
                parts.trigger(str(number), ("dark.png", "bright.png")[number % 2])
            parts.trigger("broken", "broken.png")
            parts.trigger("escape", "../models/tile/1/manifest.json")
            parts.trigger("foreign", "dark.png", product="bolt")
            parts.trigger("early", "late.png")
            verdicts = [parts.verdict(str(number)) for number in range(40)]
            (pictures / "late.part").write_bytes(plain(BRIGHT))
            (pictures / "late.part").rename(pictures / "late.png")
            early = parts.verdict("early")
            others = [parts.verdict(name) for name in ("broken", "escape", "foreign")]

    assert verdicts == ["OK", "NG"] * 20
    assert early == "NG"
    assert others == ["NOT INSPECTED"] * 3
    assert all(len(said) == 1 for said in parts.said.values())
    assert parts.said["0"][0]["valid_until"] > time.time()
    assert "retained" not in parts.said


def test_a_picture_of_an_earlier_part_is_not_taken(
    free_port: int, models: Path, pictures: Path, place: Path | str
) -> None:
    """Part numbers begin again, and yesterday's pictures, of good parts, are still there."""
    for name in ("1.png", "2.png"):
        (pictures / name).write_bytes(plain(DARK))
        os.utime(pictures / name, times=(time.time() - 86400,) * 2)
    with broker(free_port), serving(models) as service, line(free_port) as parts:
        with gateway(free_port, service.target, place, FOREVER):
            parts.trigger("1", "1.png")
            parts.trigger("next", "dark.png")
            assert parts.verdict("next") == "OK"
            (pictures / "1.part").write_bytes(plain(BRIGHT))
            (pictures / "1.part").rename(pictures / "1.png")
            assert parts.verdict("1") == "NG"
        with gateway(free_port, service.target, place, SHORT):
            parts.trigger("2", "2.png")
            assert parts.verdict("2") == "NOT INSPECTED"

    assert parts.said["2"][0]["reason"].startswith("the picture is older than the trigger")
    assert parts.said["2"][0]["reason"].endswith("no newer one arrived within the takt")


def test_the_picture_of_the_part_before_is_not_taken_either(
    free_port: int, models: Path, pictures: Path, place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written half a second before the trigger, in New York; a web server says in which second."""
    monkeypatch.setenv("TZ", "EST5")
    with (
        broker(free_port),
        serving(models) as service,
        line(free_port) as parts,
        gateway(free_port, service.target, place, "5000", lead_ms="100"),
    ):
        second = int(time.time())
        os.utime(pictures / "dark.png", times=(second - 1,) * 2)
        parts.trigger("1", "dark.png", at=second - 0.5)
        assert parts.verdict("1") == "NOT INSPECTED"

    assert parts.said["1"][0]["reason"].startswith("the picture is older than the trigger, by 0.400 s")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_away_when_it_has_ended(free_port: int, pictures: Path, by: signal.Signals) -> None:
    with broker(free_port), gateway(free_port, f"127.0.0.1:{unused_port()}", pictures, SHORT) as popen:
        with line(free_port) as before:
            wait_until(lambda: before.gateway == ["here"])
        popen.send_signal(by)
        assert popen.wait(30) == (-by if by == signal.SIGKILL else 0)
        with line(free_port) as after:
            wait_until(lambda: after.gateway[-1:] == ["away"])


def test_odd_triggers_do_not_stop_the_gateway(free_port: int, models: Path, pictures: Path) -> None:
    """An invalid trigger is ignored; a part whose name can't be sent is not inspected."""
    malformed = ("-1e999", "-1e308", "1e999", "NaN", "1" + 400 * "0", "[" * 100_000)
    with (
        broker(free_port),
        serving(models) as service,
        line(free_port) as parts,
        gateway(free_port, service.target, pictures, FOREVER),
    ):
        for at in malformed:
            parts.publish(f'{{"part": "odd", "picture": "dark.png", "at": {at}}}')
        parts.trigger("\udcfc", "dark.png")
        parts.trigger("foreign", "dark.png", product="\ud800")
        odd = [parts.verdict(name) for name in ("\udcfc", "foreign")]
        parts.trigger("next", "dark.png")
        assert parts.verdict("next") == "OK"

    assert odd == ["NOT INSPECTED"] * 2
    assert "odd" not in parts.said


def test_what_is_no_picture_is_not_inspected(free_port: int, models: Path, pictures: Path) -> None:
    """Pipes in the folder, more than there are threads, and a date that no calendar has."""
    os.mkfifo(pictures / "pipe")

    class Odd(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Last-Modified", "Mon, 01 Jan 2020 00:00:00 +99999999999999999999")
            self.end_headers()
            self.wfile.write(plain(DARK))

    with broker(free_port), serving(models) as service, line(free_port) as parts:
        with gateway(free_port, service.target, pictures, FOREVER) as popen:
            for number in range(50):
                parts.trigger(str(number), "pipe")
            assert {parts.verdict(str(number)) for number in range(50)} == {"NOT INSPECTED"}
            parts.trigger("next", "dark.png")
            assert parts.verdict("next") == "OK"
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(30) == 0
        with (
            http_server(Odd) as url,
            gateway(free_port, service.target, url, FOREVER),
        ):
            parts.trigger("odd", "dark.png")
            assert parts.verdict("odd") == "NOT INSPECTED"


def test_late_parts_are_not_inspected_and_their_verdicts_never_sent(
    free_port: int, models: Path, pictures: Path
) -> None:
    gate = Gate()
    with broker(free_port), serving(models, gate.start) as service, line(free_port) as parts:
        with gateway(free_port, service.target, pictures, SHORT):
            gate.shut()
            parts.trigger("stuck", "dark.png")
            stuck = parts.verdict("stuck")
            parts.trigger("no picture", "never.png")
            parts.trigger("stale", "dark.png", at=time.time() - 60)
            others = [parts.verdict(name) for name in ("no picture", "stale")]
            gate.open()
        with gateway(free_port, service.target, pictures, FOREVER):
            parts.trigger("next", "dark.png")
            assert parts.verdict("next") == "OK"

    assert [stuck, *others] == ["NOT INSPECTED"] * 3
    assert parts.said["no picture"][0]["reason"] == "the picture did not arrive within the takt"
    assert parts.said["stale"][0]["reason"] == "the trigger did not arrive within the takt"
    assert [len(said) for said in parts.said.values()] == [1] * 4


def test_it_survives_the_service(free_port: int, models: Path, pictures: Path) -> None:
    target = f"127.0.0.1:{unused_port()}"
    with broker(free_port), line(free_port) as parts, gateway(free_port, target, pictures, FOREVER):
        with process("--models", models, "--grpc", target):
            assert_verdicts_come(parts, "before")
        parts.trigger("away", "dark.png")
        assert parts.verdict("away") == "NOT INSPECTED"
        with process("--models", models, "--grpc", target):
            assert_verdicts_come(parts, "again")


def test_it_survives_the_broker(free_port: int, models: Path, pictures: Path) -> None:
    with serving(models) as service, ExitStack() as running:
        with broker(free_port):
            running.enter_context(gateway(free_port, service.target, pictures, FOREVER))
        with broker(free_port), line(free_port) as parts:
            assert_verdicts_come(parts, "again")


def assert_verdicts_come(parts: Line, when: str) -> None:
    """Triggers parts repeatedly until one is inspected: earlier ones may be lost."""
    names = list[str]()

    def inspected() -> bool:
        names.append(f"{when} {len(names)}")
        parts.trigger(names[-1], "dark.png")
        threading.Event().wait(0.2)
        return "OK" in {parts.said[name][0]["verdict"] for name in names if name in parts.said}

    wait_until(inspected)
