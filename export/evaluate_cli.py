"""drd-evaluate: measures a checkpoint or a bundle on labelled images, a bundle with the service's code."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from export.bundle.engines.specs import UnknownEngineError, auto_or_known
from export.bundle.manifest import MANIFEST
from training.files import is_file, is_folder
from training.messages import print_in_any_encoding
from training.names import part_pattern
from training.version import program_version

_FOR_BUNDLES = "engine", "same_part"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for misuse, 130 when interrupted."""
    print_in_any_encoding()
    parser = _parser()
    options = parser.parse_args(arguments)
    from export.errors import FAILURES, message_of  # after --help: torch takes seconds to import
    from export.evaluate import evaluate_bundle, evaluate_checkpoint
    from training.checkpoint import DESCRIPTION

    try:
        is_bundle = is_file(options.subject / MANIFEST)
        if not is_bundle and not is_file(options.subject / DESCRIPTION):
            parser.error(
                f"{options.subject} is neither a checkpoint directory (with {DESCRIPTION}) nor a bundle, "
                f"MODELS_DIR/PRODUCT/VERSION (with {MANIFEST})"
            )
        if not is_bundle and (given := [name for name in _FOR_BUNDLES if getattr(options, name)]):
            option = f"--{given[0].replace('_', '-')}"
            parser.error(f"{option} is for bundles only, and {options.subject} has no {MANIFEST}")
        if options.json and not is_folder(options.json.parent):
            parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
        if options.json and is_folder(options.json):
            parser.error(f"--json {options.json}: a folder")
        if is_bundle:
            evaluation = evaluate_bundle(
                options.subject,
                options.data,
                options.skip_unreadable,
                options.engine or "auto",
                options.same_part,
            )
        else:
            evaluation = evaluate_checkpoint(options.subject, options.data, options.skip_unreadable)
        print("\n".join(evaluation.lines()))
        if options.json:
            content = json.dumps(evaluation.as_dict(), indent=2, allow_nan=False)
            options.json.write_text(content + "\n", encoding="utf-8")
    except (*FAILURES, MemoryError, RuntimeError) as error:
        print(f"drd-evaluate: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drd-evaluate: interrupted", file=sys.stderr)
        return 130
    return 0


def _engine(text: str) -> str:
    try:
        return auto_or_known(text)
    except UnknownEngineError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "drd-evaluate",
        description="Measures a checkpoint or a bundle on labelled images: how well scores separate "
        "good from defective parts and, for a bundle, the verdicts at its own threshold.",
    )
    parser.add_argument("--version", action="version", version=program_version())
    parser.add_argument(
        "subject", type=Path, metavar="CHECKPOINT_DIR_or_BUNDLE_DIR", help="checkpoint or bundle to measure"
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="labelled pictures, as for drd-train, or a folder of good ones",
    )
    parser.add_argument(
        "--engine",
        type=_engine,
        metavar="ID",
        help="engine of the bundle (default: chosen as in the service)",
    )
    parser.add_argument(
        "--same-part",
        type=part_pattern,
        metavar="REGEX",
        help="count parts, as drd-train --same-part tells them, instead of pictures: of each, the picture "
        "with the worst verdict decides",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all figures and the result of every image"
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave unreadable pictures out, naming them, instead of stopping",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
