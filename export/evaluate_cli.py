"""drd-evaluate: measures a checkpoint or a bundle on labelled images, a bundle with the service's code."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from export.bundle.bundle import Bundle
from export.bundle.engines.specs import UnknownEngineError, auto_or_known
from export.bundle.manifest import MANIFEST
from export.errors import FAILURES, message_of
from export.evaluation import Evaluation, evaluate_bundle, evaluate_checkpoint, labelled
from export.sources import unseen
from training.checkpoint import DESCRIPTION, load_checkpoint
from training.datasets import open_dataset
from training.messages import print_in_any_encoding
from training.version import program_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for misuse, 130 when interrupted."""
    print_in_any_encoding()
    parser = _parser()
    options = parser.parse_args(arguments)
    is_bundle = (options.subject / MANIFEST).is_file()
    if not is_bundle and not (options.subject / DESCRIPTION).is_file():
        parser.error(
            f"{options.subject} is neither a checkpoint directory (with {DESCRIPTION}) nor a bundle, "
            f"MODELS_DIR/PRODUCT/VERSION (with {MANIFEST})"
        )
    if options.engine and not is_bundle:
        parser.error(f"--engine is for bundles only, and {options.subject} has no {MANIFEST}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.json and options.json.is_dir():
        parser.error(f"--json {options.json}: a folder")
    try:
        if is_bundle:
            facts, evaluation = _bundle(options)
        else:
            facts, evaluation = _checkpoint(options)
        print("\n".join(_table(evaluation)))
        if options.json:
            content = json.dumps(facts | evaluation.as_dict(), indent=2, allow_nan=False)
            options.json.write_text(content + "\n", encoding="utf-8")
    except (*FAILURES, MemoryError, RuntimeError) as error:
        print(f"drd-evaluate: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drd-evaluate: interrupted", file=sys.stderr)
        return 130
    return 0


def _bundle(options: argparse.Namespace) -> tuple[dict[str, object], Evaluation]:
    bundle = Bundle.open(options.subject)
    manifest = bundle.manifest
    dataset = open_dataset(options.data, manifest.product)
    with closing(bundle.start(options.engine or "auto")) as predictor:
        print(f"{manifest.product} version {manifest.version} on {predictor.engine_id}\n{dataset}")
        samples = labelled(dataset, manifest.geometry, options.skip_unreadable)
        if not dataset.test:
            print("WARNING: pictures that were learned from or calibrated with flatter the figures")
        evaluation = evaluate_bundle(predictor, samples)
        facts = {
            "product": manifest.product,
            "version": manifest.version,
            "bundle_digest": bundle.digest,
            "engine": predictor.engine_id,
        }
        return facts, evaluation


def _checkpoint(options: argparse.Namespace) -> tuple[dict[str, object], Evaluation]:
    checkpoint = load_checkpoint(options.subject)
    dataset = open_dataset(options.data, checkpoint.product)
    print(f"{checkpoint.product}, checkpoint {options.subject}\n{dataset}")
    samples = labelled(dataset, checkpoint.geometry, options.skip_unreadable)
    if not dataset.test:
        samples = unseen(checkpoint, samples)
    return {"product": checkpoint.product}, evaluate_checkpoint(checkpoint, samples)


def _table(evaluation: Evaluation) -> Iterator[str]:
    for name, value in evaluation.quality.as_dict().items():
        if not name.startswith("n_"):
            yield f"  {name:12} {'-' if value is None else f'{value:.4f}'}"
    if lost := evaluation.quality.n_masks_lost:
        yield f"  {lost} masks have no pixel at the network's size, and no part in the pixel figures"
    if evaluation.judged:
        yield f"  {'':12} {'images':>7} {'OK':>8} {'REVIEW':>8} {'NG':>8}"
        yield from _verdict_rows(evaluation)


def _verdict_rows(evaluation: Evaluation) -> Iterator[str]:
    counts = {"good": evaluation.quality.n_good, "defective": evaluation.quality.n_defective}
    for name, count in counts.items():
        fractions = (
            evaluation.fraction(verdict, defective=name == "defective") for verdict in ("OK", "REVIEW", "NG")
        )
        if count:
            yield f"  {name:12} {count:7} " + " ".join(f"{fraction:8.1%}" for fraction in fractions)


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
        "data", type=Path, metavar="DATA", help="MVTec AD, BTAD or VisA folder, or a folder of good images"
    )
    parser.add_argument(
        "--engine",
        type=_engine,
        metavar="ID",
        help="engine of the bundle (default: chosen as in the service)",
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
