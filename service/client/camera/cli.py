"""drd-camera: sends pictures to the service, as a line's camera does, and reports the verdict on each."""

import argparse
import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from service.client.address import Address
from service.client.aio import AsyncClient, Options
from service.client.camera import pictures
from service.client.camera.camera import Camera, Pace
from service.client.camera.pictures import LISTED, Picture
from service.client.camera.records import Records
from service.client.camera.tally import HEADER, Tally
from service.client.errors import ClientError
from service.client.values import Part

_SHOW_SECONDS = 0.5
_LOG_SECONDS = 10.0

_EPILOG = """exit status:
  0  everything was inspected and is OK
  3  everything was inspected, and something is NG or REVIEW
  1  something was not inspected (refused, late, failed), or nothing could be sent
  2  misuse

A picture is sent again within its deadline where that is safe: when the service
refused it and said when to retry, or could not be reached. A token is read from
--token-file, or from DRD_TOKEN in the environment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all OK, 3 something NG or REVIEW, 1 something not inspected, 2 misuse."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(parser, given)
    try:
        return asyncio.run(_run(given))
    except (ClientError, OSError, UnicodeError) as error:
        _say(error)
        return 1
    except KeyboardInterrupt:
        return 1


def _say(error: Exception) -> None:
    print(f"drd-camera: {error}", file=sys.stderr)


async def _run(given: argparse.Namespace) -> int:
    source = _source(given)
    with Records(given.csv, given.jsonl, given.overlays) as records:
        async with AsyncClient(given.to, **_options(given)) as client:
            await _check_product(client, given.product)
            include: set[Part] = {"regions", "overlay"} if given.overlays else {"regions"}
            deadline = given.deadline_ms and given.deadline_ms / 1000
            pace = Pace(given.rate)
            camera = Camera(client, given.product, given.version, include, deadline, given.window, pace)
            _stop_on_signals(camera)
            tally = Tally(pace)
            showing = asyncio.create_task(_show(tally, quiet=given.quiet))
            async for sent in camera.run(source, given.count):
                tally.note(sent.outcome)
                await asyncio.to_thread(records.write, sent)
            showing.cancel()
    _conclude(tally)
    return _status(tally)


def _status(tally: Tally) -> int:
    if tally.not_inspected or not tally.done:
        return 1
    return 3 if tally.counts["NG"] or tally.counts["REVIEW"] else 0


async def _check_product(client: AsyncClient, product: str) -> None:
    """Fails at the start instead of for every picture."""
    products = await client.products()
    ready = sorted({version.name for version in products if version.state == "READY"})
    if product not in ready:
        raise ClientError(f"product {product!r} is not served there; served: {', '.join(ready) or 'none'}")


def _stop_on_signals(camera: Camera) -> None:
    """The first signal ends the run in order, a second one at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if camera.stopped.is_set() and task is not None:
            task.cancel()
        camera.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows Ctrl-C ends it at once
            loop.add_signal_handler(number, stop)


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


def _source(given: argparse.Namespace) -> AsyncIterator[Picture]:
    if given.watch:
        return pictures.watched(given.sources[0], given.settle_ms / 1000, _say)
    if given.sources == [LISTED]:
        return pictures.listed()
    found = [picture for source in given.sources for picture in pictures.found(source)]
    return pictures.repeated(found, given.repeat)


def _options(given: argparse.Namespace) -> Options:
    options: Options = {"retries": given.retries, "ca": given.ca}
    if given.certificate is not None:
        options["certificate"] = (given.certificate, given.key)
    if given.token_file is not None:
        options["token"] = given.token_file.read_text(encoding="ascii").strip()
    elif token := os.environ.get("DRD_TOKEN"):
        options["token"] = token
    return options


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Checks that argparse can't express."""
    try:
        Address.parse(given.to)
    except ValueError as error:
        parser.error(f"--to: {error}")
    if given.watch and (len(given.sources) > 1 or not given.sources[0].is_dir()):
        parser.error("--watch takes one folder that exists")
    if given.watch and (given.rate or given.repeat != 1):
        parser.error("--watch sends pictures as they are written: no --rate, no --repeat")
    if (given.certificate is None) != (given.key is None):
        parser.error("--certificate and --key must be given together")
    if LISTED in given.sources and (len(given.sources) > 1 or given.repeat != 1):
        parser.error("'-' must be the only source, and can't be repeated")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "drd-camera",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=Path,
        metavar="PICTURES",
        help="files, folders (searched recursively), or '-': paths from standard input, one per line",
    )
    add("--product", required=True, metavar="NAME")
    add("--version", type=_whole(1), metavar="N", help="default: the newest")
    add("--to", default="grpc://127.0.0.1:8081", metavar="ADDRESS", help=_ADDRESS_HELP)
    add("--ca", type=Path, metavar="PEM", help="the service's certificate authorities (default: system)")
    add("--certificate", type=Path, metavar="PEM", help="client certificate, if the service asks for one")
    add("--key", type=Path, metavar="PEM", help="private key of the client certificate")
    add("--token-file", type=Path, metavar="FILE")
    positive = _number(_LEAST, 1e9)
    add(
        "--rate",
        type=positive,
        metavar="N",
        help="pictures per second, however long earlier ones take",
    )
    add(
        "--deadline-ms",
        type=positive,
        metavar="N",
        help="per picture, from when it is due (default 10000)",
    )
    add(
        "--window",
        type=_whole(1),
        default=16,
        metavar="N",
        help="pictures in flight at once (default 16)",
    )
    add("--retries", type=_whole(0), default=3, metavar="N", help="per picture, where safe (default 3)")
    add("--repeat", type=_whole(0), default=1, metavar="N", help="send all N times; 0: until stopped")
    add("--count", type=_whole(1), metavar="N", help="stop after N pictures")
    add("--watch", action="store_true", help="send pictures that appear in the folder from now on")
    add("--settle-ms", type=_number(0, 1e6), default=40, metavar="N", help=_SETTLE_HELP)
    add("--csv", type=Path, metavar="FILE", help="write one line per picture")
    add("--jsonl", type=Path, metavar="FILE", help="the same with regions and timings, as JSON lines")
    add("--overlays", type=Path, metavar="DIR", help=_OVERLAYS_HELP)
    add("--quiet", action="store_true", help="show no table during the run")
    return parser


_LEAST = 1e-6
"""Pictures per second, or milliseconds."""
_ADDRESS_HELP = """grpc://HOST:PORT, grpcs://…, grpc+unix:PATH for the gRPC stream; http://HOST:PORT,
https://…, http+unix:PATH for REST (default grpc://127.0.0.1:8081)"""
_SETTLE_HELP = "a watched picture is complete when unchanged for N ms (default 40; 0: if renamed into place)"
_OVERLAYS_HELP = """save the picture with its heatmap for every NG or REVIEW. Overlays are then requested for
every picture, which costs the service a few milliseconds each"""


def _number(least: float, below: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to below {below:g}")
        return value

    return parse


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
