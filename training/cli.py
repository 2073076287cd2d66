"""`drd-train`: good images → checkpoint."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training.datasets import belongs_to
from training.messages import out_of_memory, print_in_any_encoding
from training.names import UNKNOWN, is_product_name, part_pattern
from training.recipe import PRESETS, RecipeError
from training.version import program_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for misuse, 130 when interrupted."""
    print_in_any_encoding()
    parser = _parser()
    options = parser.parse_args(arguments)
    from training.run import FAILURES, TrainOptions, train  # after --help: torch takes seconds to import

    try:
        _check_targets(parser, options)
        train(TrainOptions(**vars(options)))
    except FAILURES as error:
        print(f"drd-train: {error}", file=sys.stderr)
        return 2 if isinstance(error, RecipeError) else 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        advice = "try a smaller --size, or a smaller `batch` in a recipe file"
        print(f"drd-train: not enough memory; {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drd-train: stopped; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
    return 0


def _check_targets(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 if output would land among the pictures or can't be written. May raise OSError."""
    for option, folder in (("--out", options.out), ("--preview", options.preview and options.preview.parent)):
        if folder is not None and belongs_to(options.data, folder):
            parser.error(f"{option}: not into {folder}, whose pictures are those of the data set")
        if folder is not None and os.path.lexists(folder) and not folder.is_dir():
            parser.error(f"{option}: {folder} is no folder")
    if options.preview is not None and options.preview.is_dir():
        parser.error(f"--preview: {options.preview} is a folder")


def _product(name: str) -> str:
    if not is_product_name(name):
        raise argparse.ArgumentTypeError(
            f"{name!r}: letters, digits, '-', '_' and '.' only, 64 at most, and not {UNKNOWN!r}"
        )
    return name


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 63):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0 to 2^63 - 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drd-train",
        description="Learn what good parts look like. The result is a checkpoint directory for drd-export.",
        epilog="Example: drd-train pictures/gasket --product gasket --out checkpoints/gasket --recipe quick",
    )
    parser.add_argument("--version", action="version", version=program_version())
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="folder of good pictures, or with a folder good beside one per kind of defect, or in the layout "
        "of MVTec AD, BTAD or VisA",
    )
    parser.add_argument(
        "--product",
        type=_product,
        required=True,
        metavar="NAME",
        help="the product's name: letters, digits, - _ .",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="checkpoint directory to write"
    )
    parser.add_argument(
        "--recipe",
        default="fast",
        metavar="RECIPE",
        help=f"{', '.join(PRESETS)}, or a FILE.toml of recipe fields (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="teacher: a timm backbone, as resnet18 or, of several weights, resnet18.tv_in1k (default: the "
        "recipe's)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the teacher's weights: safetensors or torch file"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the images (default: the recipe's)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of every random choice (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels, multiples of 32 (default: 256 256, or as many pixels in the shape that "
        "long pictures have in common)",
    )
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="also draw pseudo-abnormal samples there"
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave unreadable pictures out, naming them, instead of stopping",
    )
    parser.add_argument(
        "--same-part",
        type=part_pattern,
        metavar="REGEX",
        help="pictures are of one part if this finds the same text in their files' names (or, if in none of "
        "these, in their paths below DATA); with groups, as in 'top-([0-9]+)|side-([0-9]+)', the text that "
        "counts is that of the first group that found any; for several pictures per part, so that the "
        "threshold is set on other parts than those learned from",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
