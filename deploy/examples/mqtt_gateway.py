"""A gateway between a line's MQTT broker and the inspection service.

    line/STATION/trigger ──▶ {"part": "4711", "picture": "4711.png"}      and optionally "product", "at"
    line/STATION/verdict ◀── {"part": "4711", "verdict": "OK", "score": 0.21, "valid_until": 1764000000.1}

The verdict is OK, REVIEW, NG, or NOT INSPECTED with a reason, once for each trigger. The takt starts at the
trigger's "at" (seconds since 1970, needs synchronised clocks), or at its arrival here. A part without a
verdict --reserve-ms before the end of its takt is NOT INSPECTED, and so is a part without any message.
Nothing is sent late from here, but a broker that hangs delivers late what it was sent in time: the PLC must
discard what comes after its own timer, or after `valid_until` if clocks are synchronised. line/gateway is
"here" or "away".

Needs gateway.py beside it, this repository's extra `client`, and aiomqtt.
"""

import argparse
import asyncio
import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
from gateway import Inspector, options_of_all, run, tell

from service.client import Answer, AsyncClient

RECONNECT_SECONDS = 0.5
BROKER_HELP = "default 127.0.0.1:1883; MQTT_USERNAME and MQTT_PASSWORD from the environment"


@dataclass(frozen=True)
class Part:
    """A part to be inspected. `since` and `ends` are instants of `time.monotonic`, `at` of `time.time`."""

    station: str
    name: str
    picture: str
    product: str
    at: float
    since: float
    ends: float

    @property
    def frame_id(self) -> str:
        return f"{self.station}/{self.name}"

    @staticmethod
    def parse(station: str, payload: bytes, product: str, takt: float) -> "Part":
        """Raises ValueError if `payload` is not a valid trigger; `takt` is in seconds."""
        try:
            given = json.loads(payload)
            name, picture = str(given["part"]), str(given["picture"])
            at = float(given.get("at", time.time()))
            product = str(given.get("product", product))
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"a trigger is an object with 'part' and 'picture' ({error!r})") from error
        if not 0 <= at < math.inf:
            raise ValueError(f"'at' must be seconds since 1970, not {at}")
        now = time.time()
        since = time.monotonic() - max(0.0, now - at)
        return Part(station, name, picture, product, min(at, now), since, since + takt)


def message(part: Part, result: Answer | str, now: float) -> dict[str, object]:
    """The message for a part at the instant `now`: with a verdict only if it is in time."""
    said: dict[str, object] = {
        "part": part.name,
        "ms": round(1000 * (now - part.since)),
        "valid_until": round(time.time() + part.ends - now, 3),
    }
    if isinstance(result, str) or now > part.ends:
        why = result if isinstance(result, str) else "too late"
        return said | {"verdict": "NOT INSPECTED", "reason": why}
    return said | {
        "verdict": result.verdict,
        "reason": result.reason,
        "score": round(result.score, 4),
        "product": result.product,
        "version": result.version,
    }


class Gateway:
    """Receives triggers and sends exactly one message for each."""

    def __init__(self, service: AsyncClient, options: argparse.Namespace) -> None:
        if options.broker_ca:
            Path(options.broker_ca).read_bytes()  # its error names the file; the connection's does not
        self._inspector, self._options = Inspector(service, options), options
        self._outgoing = asyncio.Queue[tuple[Part, Answer | str]]()
        self._tasks = set[asyncio.Task[None]]()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._inspector.run())
            both.create_task(self._follow_broker())

    async def _follow_broker(self) -> None:
        """Reconnects for ever, each time with a new session, so that no old messages are delivered."""
        prefix, (host, port) = self._options.prefix, self._options.broker
        ca = self._options.broker_ca
        while True:
            try:
                async with aiomqtt.Client(
                    host,
                    port,
                    username=os.environ.get("MQTT_USERNAME"),
                    password=os.environ.get("MQTT_PASSWORD"),
                    will=aiomqtt.Will(f"{prefix}/gateway", "away", retain=True),
                    keepalive=5,
                    timeout=2,
                    tls_params=aiomqtt.TLSParameters(ca) if ca else None,
                ) as broker:
                    try:
                        await broker.subscribe(f"{prefix}/+/trigger")
                        await broker.publish(f"{prefix}/gateway", "here", retain=True)
                        tell(f"connected to {host}:{port}")
                        async with asyncio.TaskGroup() as session:
                            session.create_task(self._listen(broker))
                            session.create_task(self._publish(broker))
                    except asyncio.CancelledError:
                        # The end in order, at which the broker forgets the will.
                        with suppress(aiomqtt.MqttError):
                            await broker.publish(f"{prefix}/gateway", "away", retain=True)
                        raise
            except* aiomqtt.MqttError as errors:
                tell(f"no connection to the broker: {errors.exceptions[0]}")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, broker: aiomqtt.Client) -> None:
        async for trigger in broker.messages:
            if trigger.retain:
                continue  # of an earlier part
            station = str(trigger.topic).split("/")[-2]
            try:
                part = Part.parse(
                    station, bytes(trigger.payload), self._options.product, self._options.takt_ms / 1000
                )
            except (TypeError, ValueError) as error:
                tell(f"{trigger.topic}: {error}")
                continue
            task = asyncio.create_task(self._handle(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, broker: aiomqtt.Client) -> None:
        """Sends all messages, after a last check that a verdict is still in time."""
        while True:
            part, result = await self._outgoing.get()
            said = message(part, result, time.monotonic())
            await broker.publish(f"{self._options.prefix}/{part.station}/verdict", json.dumps(said))

    async def _handle(self, part: Part) -> None:
        inspected = self._inspector.inspect(part.picture, part.product, part.frame_id, part.since, part.at)
        self._outgoing.put_nowait((part, await inspected))


async def serve(options: argparse.Namespace) -> None:
    async with AsyncClient(options.to, token=os.environ.get("DRD_TOKEN"), ca=options.ca) as service:
        await Gateway(service, options).run()


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host.encode("idna"):  # ValueError also for what can't be a host
        raise ValueError("the host is missing")
    return host, int(port)


def main() -> None:
    parser = options_of_all(__doc__)
    add = parser.add_argument
    add("--broker", type=place, default="127.0.0.1:1883", metavar="HOST:PORT", help=BROKER_HELP)
    add("--broker-ca", metavar="PEM", help="certificate authorities of the broker; enables TLS")
    add("--prefix", default="line", metavar="TOPIC", help="default: line")
    run("mqtt_gateway", serve(parser.parse_args()))


if __name__ == "__main__":
    main()
