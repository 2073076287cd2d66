"""drd-export: makes a bundle, which the service can load, from a trained checkpoint."""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from export.bundle.engines.specs import ENGINES, UnknownEngineError, spec_of
from export.bundle.manifest import MAX_VERSION
from training.messages import print_in_any_encoding

_MIN_BUDGET = 1e-6
"""A smaller budget would take more than a million calibration images."""

if sys.platform == "win32":
    _ENDS = (signal.SIGTERM, signal.SIGBREAK)
else:
    _ENDS = (signal.SIGTERM, signal.SIGHUP)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or Ctrl-Break, handled as Ctrl-C is: what was begun is removed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for misuse; 128 and its number for a signal, 130 for Ctrl-C."""
    print_in_any_encoding()
    parser = new_parser()
    given = parser.parse_args(arguments)
    from export.build import ExportOptions, build  # after --help: torch takes seconds to import
    from export.errors import FAILURES, message_of

    options = ExportOptions(**vars(given))
    heeded = [number for number in _ENDS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup sets it
    usual = {number: signal.signal(number, _terminate) for number in heeded}
    try:
        if options.models.exists() and not options.models.is_dir():
            parser.error(f"--to: {options.models} is no folder")
        build(options)
    except (*FAILURES, MemoryError, RuntimeError) as error:
        print(f"drd-export: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as end:
        print("drd-export: interrupted, nothing was written", file=sys.stderr)
        return 128 + (end.args[0] if isinstance(end, _Terminated) else signal.SIGINT)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(number)


def new_parser() -> argparse.ArgumentParser:
    """The command line; its options are the fields of `ExportOptions`."""
    parser = argparse.ArgumentParser(
        "drd-export",
        description="Makes a bundle, MODELS_DIR/PRODUCT/VERSION, from a checkpoint: fits thresholds on good "
        "images that training has not seen, traces the network, and compares every engine with it.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT_DIR", help="the folder that drd-train wrote"
    )
    parser.add_argument(
        "--to",
        dest="models",
        type=Path,
        required=True,
        metavar="MODELS_DIR",
        help="the models folder of drd-serve",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="good images for calibration, instead of those that training set aside; images that were used "
        "in training, or of parts that were, are left out",
    )
    parser.add_argument(
        "--max-false-reject",
        type=_fraction,
        default=0.01,
        metavar="FRACTION",
        help="error budget, which sets the threshold: the fraction of good parts that may be NG, from "
        "0.000001 to below 0.5; what is REVIEW comes on top (default %(default)s)",
    )
    parser.add_argument(
        "--min-area",
        type=_pixels,
        default=0,
        metavar="PIXELS",
        help="smallest defect, in pixels of the sent image: a part over the threshold whose regions are all "
        "smaller is REVIEW, not NG (default %(default)s: no limit)",
    )
    parser.add_argument(
        "--version", type=_version, metavar="N", help="version to write (default: the next one)"
    )
    parser.add_argument(
        "--engines",
        type=_engines,
        metavar="ID,ID…",
        help="engines that have to be in the bundle, besides onnx-f32, which always is (default: all that "
        "can be built on this machine and pass): " + ", ".join(ENGINES),
    )
    parser.add_argument(
        "--roi",
        type=Path,
        metavar="FILE.json",
        help="region of interest (default: the whole picture). What lies outside gets no score; nearer than "
        "an eighth of the picture's side it still shows inside: "
        '{"unit": "fraction", "shapes": [{"rectangle": [x, y, width, height]}, {"polygon": [[x, y], …]}]}, '
        'or {"unit": "pixel", "image_size": [width, height], "shapes": …}',
    )
    parser.add_argument(
        "--sign",
        dest="key",
        type=Path,
        metavar="KEY.pem",
        help="sign the bundle with this private key (P-256, P-384 or P-521), for drd-serve --trusted-key",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave unreadable pictures of --calibration out, naming them, instead of stopping",
    )
    return parser


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _MIN_BUDGET <= value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction from {_MIN_BUDGET:f} to below 0.5")
    return value


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of pixels from 0 on")
    return int(text)


def _engines(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    if not names:
        raise argparse.ArgumentTypeError("no engine is named; leave the option out for all")
    try:
        for name in names:
            spec_of(name)
    except UnknownEngineError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _version(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_VERSION):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version, a whole number from 1 to {MAX_VERSION}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
