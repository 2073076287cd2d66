"""A gateway between a line's MQTT broker and the inspection service.

    line/STATION/trigger ──▶ {"part": "4711", "picture": "4711.png"}      and optionally "product", "at"
    line/STATION/verdict ◀── {"part": "4711", "verdict": "OK", "score": 0.21, "valid_until": 1764000000.1}

The verdict is OK, REVIEW, NG, or NOT INSPECTED with a reason, once for each trigger. The takt starts at the
trigger's "at" (seconds since 1970, needs synchronised clocks), or at its arrival here. A part without a
verdict --reserve-ms before the end of its takt is NOT INSPECTED, and so is a part without any message.
Nothing is sent late from here, but a broker that hangs delivers late what it was sent in time: the PLC must
discard what comes after its own timer, or after `valid_until` if clocks are synchronised. line/gateway is
"here" or "away".

Write each picture under a temporary name, then rename it. One written more than --picture-lead-ms before its
trigger is not taken: it is that of an earlier part of the same name. Keep it shorter than the time from one
part's picture to the next trigger for the same name, and long enough for the trigger's own way, file systems
that round times (FAT: 2 s) and clocks that differ: a picture's time is by the clock of the camera or file
server. From a URL that gives no Last-Modified every picture is taken, so use each name only once.

Needs this repository's extra `client`, and aiomqtt.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import aiomqtt
import httpx

from service.client import AsyncClient, ClientError, Frame, Outcome

LOOK_SECONDS = 0.005
NO_PICTURE = "the picture did not arrive"
RECONNECT_SECONDS = 0.5
LEAD_HELP = "a picture may be written so long before its trigger is given (default 100)"
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


def message(part: Part, outcome: Outcome | None, reason: str, now: float) -> dict[str, object]:
    """The message for a part at the instant `now`: with a verdict only if it is in time."""
    said: dict[str, object] = {
        "part": part.name,
        "ms": round(1000 * (now - part.since)),
        "valid_until": round(time.time() + part.ends - now, 3),
    }
    if outcome is None or outcome.answer is None or now > part.ends:
        why = reason or ("too late" if now > part.ends else str(outcome and outcome.error))
        return said | {"verdict": "NOT INSPECTED", "reason": why}
    answer = outcome.answer
    return said | {
        "verdict": answer.verdict,
        "reason": answer.reason,
        "score": round(answer.score, 4),
        "product": answer.product,
        "version": answer.version,
    }


class NotYet(Exception):
    """There is no picture of the part so far; says why."""


class Pictures:
    """Fetches pictures from a folder or URL."""

    def __init__(self, where: str) -> None:
        self._where = where.rstrip("/")
        self._http = httpx.AsyncClient(trust_env=False) if "://" in where else None

    async def fetch(self, name: str, oldest: float) -> bytes:
        """Raises NotYet if there is none, or one that was written before `oldest`, by `time.time`.

        Raises ValueError for a name outside the folder, OSError or httpx.HTTPError if it can't be read.
        """
        if ".." in Path(name).parts or name.startswith("/"):
            raise ValueError(f"the picture {name!r} is not below {self._where}")
        if self._http is None:
            return await asyncio.to_thread(self._read, name, oldest)
        response = await self._http.get(f"{self._where}/{quote(name)}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotYet(NO_PICTURE)
        content = response.raise_for_status().content
        if modified := response.headers.get("Last-Modified"):
            # It is cut to whole seconds: the picture may have been written up to a second later.
            refuse_older(parsedate_to_datetime(modified).timestamp() + 1, oldest)
        return content

    def _read(self, name: str, oldest: float) -> bytes:
        path = Path(self._where) / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError(f"{path} is not a regular file")  # a pipe would hold this thread for ever
            with path.open("rb") as file:
                # Of the open file: another may take its name meanwhile.
                refuse_older(os.fstat(file.fileno()).st_mtime, oldest)
                return file.read()
        except FileNotFoundError:
            raise NotYet(NO_PICTURE) from None


def refuse_older(written: float, oldest: float) -> None:
    if written < oldest:
        by = f"by {oldest - written:.3f} s too much"
        raise NotYet(f"the picture is older than the trigger, {by}, and no newer one arrived")


class Gateway:
    """Receives triggers and sends exactly one message for each."""

    def __init__(self, service: AsyncClient, pictures: Pictures, options: argparse.Namespace) -> None:
        self._service, self._pictures, self._options = service, pictures, options
        self._takt, self._reserve = options.takt_ms / 1000, options.reserve_ms / 1000
        self._lead = options.picture_lead_ms / 1000
        self._frames = asyncio.Queue[Frame]()
        self._under_way = dict[str, asyncio.Future[Outcome]]()  # by request id: a part may be triggered again
        self._outgoing = asyncio.Queue[tuple[Part, Outcome | None, str]]()
        self._tasks = set[asyncio.Task[None]]()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._follow_stream())
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
                part = Part.parse(station, bytes(trigger.payload), self._options.product, self._takt)
            except (TypeError, ValueError) as error:
                tell(f"{trigger.topic}: {error}")
                continue
            task = asyncio.create_task(self._handle(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, broker: aiomqtt.Client) -> None:
        """Sends all messages, after a last check that a verdict is still in time."""
        while True:
            part, outcome, reason = await self._outgoing.get()
            said = message(part, outcome, reason, time.monotonic())
            await broker.publish(f"{self._options.prefix}/{part.station}/verdict", json.dumps(said))

    async def _handle(self, part: Part) -> None:
        budget = self._takt - self._reserve
        left = part.since + budget - time.monotonic()
        outcome, reason, doing = None, "", NO_PICTURE if left > 0 else "the trigger did not arrive"
        try:
            async with asyncio.timeout(left):
                image = None
                while image is None:
                    try:
                        image = await self._pictures.fetch(part.picture, part.at - self._lead)
                    except NotYet as why:
                        doing = str(why)
                        await asyncio.sleep(LOOK_SECONDS)
                doing = "no verdict arrived"
                frame = Frame(image, part.product, part.frame_id, deadline=budget, since=part.since)
                outcome = await self._inspect(frame)
        except TimeoutError:
            reason = f"{doing} within the takt"
        except (OSError, ValueError, OverflowError, httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error)
        self._outgoing.put_nowait((part, outcome, reason))

    async def _inspect(self, frame: Frame) -> Outcome:
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[frame.request_id] = settled
        self._frames.put_nowait(frame)
        try:
            return await settled
        finally:
            del self._under_way[frame.request_id]

    async def _follow_stream(self) -> None:
        """One gRPC stream for all parts; the client reopens it when the service is back."""

        async def frames() -> AsyncIterator[Frame]:
            while True:
                yield await self._frames.get()

        async for outcome in self._service.stream(frames(), window=64):
            settled = self._under_way.get(outcome.frame.request_id)
            if settled is not None and not settled.done():
                settled.set_result(outcome)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def serve(options: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too: scripts start others with it ignored
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with AsyncClient(options.to, token=os.environ.get("DRD_TOKEN"), ca=options.ca) as service:
        await Gateway(service, Pictures(options.pictures), options).run()


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host.encode("idna"):  # ValueError also for what can't be a host
        raise ValueError("the host is missing")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--product", required=True, metavar="NAME", help="product for triggers without one")
    add("--pictures", required=True, metavar="DIR|URL", help="folder or URL of the pictures")
    add("--takt-ms", type=float, default=200, metavar="N", help="from trigger to verdict (default 200)")
    add("--reserve-ms", type=float, default=20, metavar="N", help="of it, to send the verdict (default 20)")
    add("--picture-lead-ms", type=float, default=100, metavar="N", help=LEAD_HELP)
    add("--to", default="grpc://127.0.0.1:8081", metavar="ADDRESS", help="the service; token: DRD_TOKEN")
    add("--ca", type=Path, metavar="PEM", help="certificate authorities of the service")
    add("--broker", type=place, default="127.0.0.1:1883", metavar="HOST:PORT", help=BROKER_HELP)
    add("--broker-ca", metavar="PEM", help="certificate authorities of the broker; enables TLS")
    add("--prefix", default="line", metavar="TOPIC", help="default: line")
    options = parser.parse_args()
    try:
        if options.broker_ca:
            Path(options.broker_ca).read_bytes()  # its error names the file; the connection's does not
        asyncio.run(serve(options))
    except (ValueError, OSError, ClientError) as error:
        sys.exit(f"mqtt_gateway: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass


if __name__ == "__main__":
    main()
