"""The arguments of drd-camera."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from service.client.address import Address
from service.client.camera.pictures import LISTED
from service.client.values import Verdict

_EPILOG = """exit status:
  0  everything was inspected and is OK, or what --expect says
  3  everything was inspected, and something is not
  1  something was not inspected (refused, late, failed, or the run was stopped
     before the end), nothing could be sent, or an overlay could not be saved
  2  misuse

A picture is sent again within its deadline where that is safe: when the service
refused it and said when to retry, or could not be reached. A token is read from
--token-file, or from DRD_TOKEN in the environment."""


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Exits with status 2 and a message on misuse."""
    parser = _parser(description)
    given = parser.parse_args(arguments)
    _check(parser, given)
    return given


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Checks that argparse can't express."""
    try:
        Address.parse(given.to)
    except ValueError as error:
        parser.error(f"--to: {error}")
    # Path.is_dir raises, before Python 3.14, what stands in the way of looking.
    if given.watch and (len(given.sources) > 1 or not os.path.isdir(given.sources[0])):  # noqa: PTH112
        parser.error("--watch takes one folder that exists")
    if given.watch and (given.rate or given.repeat != 1):
        parser.error("--watch sends pictures as they are written: no --rate, no --repeat")
    if (given.certificate is None) != (given.key is None):
        parser.error("--certificate and --key must be given together")
    if LISTED in given.sources and (len(given.sources) > 1 or given.repeat != 1):
        parser.error("'-' must be the only source, and can't be repeated")
    if LISTED in given.sources and sys.stdin is None:
        parser.error("'-': standard input is closed")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "drd-camera",
        description=description,
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
    positive = _number(_MIN, 1e9)
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
    add("--expect", choices=get_args(Verdict), help=_EXPECT_HELP)
    add("--csv", type=Path, metavar="FILE", help="add one line per picture")
    add("--jsonl", type=Path, metavar="FILE", help="the same with regions and timings, as JSON lines")
    add("--overlays", type=Path, metavar="DIR", help=_OVERLAYS_HELP)
    add("--quiet", action="store_true", help="show no table during the run")
    return parser


_MIN = 1e-6
"""Pictures per second, or milliseconds."""
_ADDRESS_HELP = """grpc://HOST:PORT, grpcs://…, grpc+unix:PATH for the gRPC stream; http://HOST:PORT,
https://…, http+unix:PATH for REST (default grpc://127.0.0.1:8081)"""
_SETTLE_HELP = "a watched picture is complete when unchanged for N ms (default 40; 0: if renamed into place)"
_EXPECT_HELP = """the verdict that every picture should get (default OK): checks the line with known
parts, and names the first ten that get another"""
_OVERLAYS_HELP = """save the picture with its heatmap for every NG or REVIEW. Overlays are then requested for
every picture, which costs the service a few milliseconds each"""


def _number(minimum: float, below: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value < below:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {minimum:g} to below {below:g}")
        return value

    return parse


def _whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) >= minimum):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} on")
        return int(text)

    return parse
