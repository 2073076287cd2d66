"""drd-camera: sends pictures to the service, as a line's camera does, and reports the verdict on each."""

import argparse
import asyncio
import io
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress

from service.client.aio import AsyncClient, Options
from service.client.camera import pictures
from service.client.camera.arguments import parse
from service.client.camera.camera import Camera, Pace, Sent, Unreadable
from service.client.camera.pictures import LISTED, PictureFile
from service.client.camera.records import Records
from service.client.camera.tally import HEADER, Tally
from service.client.camera.watch import Watch
from service.client.errors import AccessDenied, ClientError
from service.client.signals import on_termination
from service.client.values import Part

_SHOW_SECONDS = 0.5
_LOG_SECONDS = 10.0
_AT_ONCE = "stopped at once: the pictures under way have no verdict"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all OK, or as expected, 3 some not, 1 something not inspected, 2 misuse."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not know every character
    given = parse(__doc__, arguments)
    try:
        return asyncio.run(_run(given))
    except AccessDenied as error:
        _say(f"{error} (a token is read from --token-file, or from DRD_TOKEN)")
    except (ClientError, OSError) as error:
        _say(error)
    except KeyboardInterrupt:
        _say(_AT_ONCE)
    return 1


def _say(error: Exception | str) -> None:
    with suppress(OSError):  # nobody reads it any more: that ends nothing, and keeps nothing from its end
        print(f"drd-camera: {error}", file=sys.stderr)


async def _run(given: argparse.Namespace) -> int:
    watch = Watch(given.sources[0], given.settle_ms / 1000, _say) if given.watch else None
    source = _source(given) if watch is None else watch.pictures()
    with Records(given.csv, given.jsonl, given.overlays, _say) as records:
        async with _client(given) as client:
            await _check_product(client, given.product)
            include: set[Part] = {"regions", "overlay"} if given.overlays else {"regions"}
            deadline = given.deadline_ms and given.deadline_ms / 1000
            pace = Pace(given.rate)
            camera = Camera(client, given.product, given.version, include, deadline, given.window, pace)
            _stop_on_signals(camera)
            tally = Tally(pace, given.expect)
            showing = asyncio.create_task(_show(tally, quiet=given.quiet))
            await _note(camera.run(source, given.count), tally, records, watching=watch is not None)
            showing.cancel()
    left = await asyncio.to_thread(_left, given, camera, watch)
    _conclude(tally)
    if left:
        print("stopped before all pictures were sent")
    return 1 if left or records.incomplete else _status(tally)


async def _note(pictures: AsyncGenerator[Sent], tally: Tally, records: Records, *, watching: bool) -> None:
    async with aclosing(pictures):  # ended in order also if a line can't be written
        async for sent in pictures:
            tally.note(sent)
            if watching and isinstance(sent.outcome.error, Unreadable):
                _say(sent.outcome.error)  # now: the end, where causes are shown, may be far
            await asyncio.to_thread(records.write, sent)


def _left(given: argparse.Namespace, camera: Camera, watch: Watch | None) -> bool:
    """Whether a stop kept pictures from being sent. An endless run only ends by one: that does not count."""
    if camera.ended:
        return False
    if watch is not None and given.count is None:
        return camera.dropped or watch.left()
    return given.count is not None or given.repeat != 0


def _status(tally: Tally) -> int:
    if tally.inspected < tally.done or not tally.done:
        return 1
    return 0 if tally.as_expected else 3


async def _check_product(client: AsyncClient, product: str) -> None:
    """Fails at the start instead of for every picture."""
    products = await client.products()
    ready = sorted({version.name for version in products if version.state == "READY"})
    if product not in ready:
        raise ClientError(f"product {product!r} is not served there; served: {', '.join(ready) or 'none'}")


def _stop_on_signals(camera: Camera) -> None:
    """The first signal ends the run in order, a second one at once."""

    def stop() -> None:
        if camera.stopped.is_set():
            _say(_AT_ONCE)
            os._exit(1)  # anything else waits for threads, which may hang in reading or writing a file
        camera.stopped.set()

    on_termination(stop)


async def _show(tally: Tally, *, quiet: bool) -> None:
    """Shows progress: one changing line on a terminal, a line every ten seconds in a log."""
    if quiet:
        return
    live = sys.stderr.isatty()
    print(HEADER, file=sys.stderr)
    while True:
        await asyncio.sleep(_SHOW_SECONDS if live else _LOG_SECONDS)
        print(tally.line(), end="\r" if live else "\n", file=sys.stderr, flush=True)


def _conclude(tally: Tally) -> None:
    print(HEADER)
    print(tally.line(recent=None))
    for remark in tally.remarks():
        print(remark)


def _source(given: argparse.Namespace) -> AsyncIterator[PictureFile]:
    if given.sources == [LISTED]:
        return pictures.listed()
    found = [picture for source in given.sources for picture in pictures.found(source)]
    return pictures.repeated(found, given.repeat)


def _client(given: argparse.Namespace) -> AsyncClient:
    try:
        return AsyncClient(given.to, **_options(given))
    except ValueError as error:  # such as a token with a space in it
        raise ClientError(str(error)) from None


def _options(given: argparse.Namespace) -> Options:
    options: Options = {"retries": given.retries, "ca": given.ca}
    if given.certificate is not None:
        options["certificate"] = (given.certificate, given.key)
    if given.token_file is not None:
        options["token"] = given.token_file.read_text(encoding="ascii", errors="replace").strip()
    elif token := os.environ.get("DRD_TOKEN"):
        options["token"] = token
    return options


if __name__ == "__main__":
    sys.exit(main())
