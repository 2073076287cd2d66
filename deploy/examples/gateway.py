"""What the gateways have in common: a part is inspected within its takt, or there is a reason why not."""

import argparse
import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import httpx

from service.client import Answer, AsyncClient, ClientError, Frame, Outcome
from service.client.signals import on_termination

LOOK_SECONDS = 0.005
NO_PICTURE = "the picture did not arrive"
PICTURES_HELP = """\
Write each picture under a temporary name, then rename it. One written more than --picture-lead-ms before its
trigger is not taken: it is that of an earlier part of the same name. Keep it shorter than the time from one
part's picture to the next trigger for the same name, and long enough for the trigger's own way, times that
are cut short (a URL's to 1 s, so give 1000 more; FAT's to 2 s) and clocks that differ: a picture's time is by
the clock of the camera or file server. Use no name again within the takt: a part whose picture fails to come
would get the next one's. From a URL that gives no Last-Modified every picture is taken, so use each name
only once.
"""
LEAD_HELP = "a picture may be written so long before its trigger is given (default 100)"


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
        if ".." in Path(name).parts or Path(name).anchor:
            raise ValueError(f"the picture {name!r} is not below {self._where}")
        if self._http is None:
            return await asyncio.to_thread(self._read, name, oldest)
        response = await self._http.get(f"{self._where}/{quote(name)}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotYet(NO_PICTURE)
        content = response.raise_for_status().content
        if modified := response.headers.get("Last-Modified"):
            # Cut to whole seconds, so the picture may be newer; UTC, where its form does not say so.
            written = parsedate_to_datetime(modified)
            refuse_older(written.replace(tzinfo=written.tzinfo or UTC).timestamp(), oldest)
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
        except PermissionError as error:  # on Windows while its writer shares it with nobody
            raise NotYet(f"the picture can't be opened ({error.strerror})") from None


def refuse_older(written: float, oldest: float) -> None:
    if written < oldest:
        by = f"by {oldest - written:.3f} s too much"
        raise NotYet(f"the picture is older than the trigger, {by}, and no newer one arrived")


class Inspector:
    """Inspects parts within their takt, over one gRPC stream for all."""

    def __init__(self, service: AsyncClient, options: argparse.Namespace) -> None:
        self._service, self._pictures = service, Pictures(options.pictures)
        self._budget = (options.takt_ms - options.reserve_ms) / 1000
        self._lead = options.picture_lead_ms / 1000
        self._frames = asyncio.Queue[Frame]()
        self._under_way = dict[str, asyncio.Future[Outcome]]()  # by request id: a part may be triggered again

    async def run(self) -> None:
        """For ever: the client reopens the stream when the service is back."""

        async def frames() -> AsyncIterator[Frame]:
            while True:
                yield await self._frames.get()

        async for outcome in self._service.stream(frames(), window=64):
            settled = self._under_way.get(outcome.frame.request_id)
            if settled is not None and not settled.done():
                settled.set_result(outcome)

    async def inspect(
        self, picture: str, product: str, frame_id: str, since: float, at: float
    ) -> Answer | str:
        """The answer, or why there is none: --reserve-ms before the end of the takt at the latest.

        `since`, by `time.monotonic`, and `at`, by `time.time`, are the instant of the trigger.
        """
        left = since + self._budget - time.monotonic()
        doing = NO_PICTURE if left > 0 else "the trigger did not arrive"
        try:
            async with asyncio.timeout(left):
                image = None
                while image is None:
                    try:
                        image = await self._pictures.fetch(picture, at - self._lead)
                    except NotYet as why:
                        doing = str(why)
                        await asyncio.sleep(LOOK_SECONDS)
                doing = "no verdict arrived"
                frame = Frame(image, product, frame_id, deadline=self._budget, since=since)
                outcome = await self._outcome(frame)
        except TimeoutError:
            return f"{doing} within the takt"
        except (OSError, ValueError, OverflowError, httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error)
        return outcome.answer or str(outcome.error)

    async def _outcome(self, frame: Frame) -> Outcome:
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[frame.request_id] = settled
        self._frames.put_nowait(frame)
        try:
            return await settled
        finally:
            del self._under_way[frame.request_id]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def options_of_all(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all gateways have."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=PICTURES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--product", required=True, metavar="NAME", help="product of parts for which none is given")
    add("--pictures", required=True, metavar="DIR|URL", help="folder or URL of the pictures")
    add("--takt-ms", type=float, default=200, metavar="N", help="from trigger to verdict (default 200)")
    add("--reserve-ms", type=float, default=20, metavar="N", help="of it, to send the verdict (default 20)")
    add("--picture-lead-ms", type=float, default=100, metavar="N", help=LEAD_HELP)
    add("--to", default="grpc://127.0.0.1:8081", metavar="ADDRESS", help="the service; token: DRD_TOKEN")
    add("--ca", type=Path, metavar="PEM", help="certificate authorities of the service")
    return parser


def run(name: str, serving: Coroutine[None, None, None]) -> None:
    """Runs a gateway until SIGINT or SIGTERM; one line and exit status 1 if it can't start."""

    async def until_signal() -> None:
        task = asyncio.current_task()
        assert task is not None
        on_termination(task.cancel)
        await serving

    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # for aiomqtt, on Windows
            runner.run(until_signal())
    except (ValueError, OSError, ClientError) as error:
        sys.exit(f"{name}: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
