"""The parity certificate: which engines agree with the checkpoint, and how each is best run. One that differs
too much is not put into the bundle."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress

from pydantic import BaseModel, ConfigDict

from export.bundle.engines.engine import Engine, EngineFailed
from export.bundle.manifest import BATCH_SIZES, MAX_GUARD_BAND, BundleError, EngineEntry
from export.engines import in_float16, in_int8, on_gpu, variants
from export.proof import EngineParity, ParityError, Trial, prove, prove_half_graph
from export.race import Times, race

_ROUNDS = 5
"""Timed runs per engine and batch size."""

_NARROW = MAX_GUARD_BAND / 2
"""A guard band with which no other way to run the engine is tried."""

_Attempt = tuple[EngineEntry, EngineParity | None, str | None]
"""An engine as it was run, its proof or None if it flips or fails, and the reason if it must be left out."""


class Parity(BaseModel):
    """The content of `parity.json`; `frames` is the number of golden frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    engines: tuple[EngineParity, ...]


def certify(
    entries: Sequence[EngineEntry], trial: Trial
) -> tuple[list[tuple[EngineEntry, EngineParity]], dict[str, str]]:
    """Every engine as it should be run, with its proof, in order of preference; and the reasons why some must
    be left out, by engine id.

    Raises ParityError on a flip, except by an int8 engine, which is left out: not every network can be
    quantised. So are engines that fail, and float16 engines that can't be run here if their graph flips on
    the CPU.
    """
    chosen, proofs, unfit = dict[str, EngineEntry](), list[EngineParity](), dict[str, str]()
    for entry in entries:
        chosen[entry.id], proof, objection = _best_way(variants(entry), trial)
        if proof is not None:
            proofs.append(proof)
        if objection:
            unfit[entry.id] = objection
    unseen = [proof for proof in proofs if proof.status == "not_run" and in_float16(proof.id)]
    if unseen:
        band, objection = prove_half_graph(trial)
        if objection:
            unfit |= {proof.id: objection for proof in unseen}
        proofs = [
            proof.model_copy(
                update={"guard_band": band, "reason": f"{proof.reason}; its graph on the CPU: {band:.1e}"}
            )
            if proof in unseen
            else proof
            for proof in proofs
        ]
    fit = [proof.id for proof in proofs if proof.status == "verified" and proof.id not in unfit]
    times = _race([chosen[name] for name in fit], trial)
    proofs = [proof.model_copy(update={"ms_per_image": times.get(proof.id)}) for proof in proofs]
    return [(chosen[proof.id], proof) for proof in sorted(proofs, key=_preference)], unfit


def _best_way(ways: Sequence[EngineEntry], trial: Trial) -> _Attempt:
    """The first of the `ways` to run an engine whose guard band is narrow, or that with the narrowest, with
    what `prove` gives. No proof if it fails or flips: an int8 engine may flip, for others ParityError is
    raised."""
    tried, flip = list[_Attempt](), None
    for way in ways:
        try:
            proof, objection = prove(way, trial)
        except (ParityError, EngineFailed) as error:
            tried.append((way, None, str(error)))
            flip = error if isinstance(error, ParityError) else flip
            continue
        tried.append((way, proof, objection))
        if objection is None and (proof.guard_band or 0.0) <= _NARROW:
            break
    way, best, objection = min(tried, key=_width)
    if best is None and flip and not in_int8(way.id):
        raise flip
    return way, best, objection


def _width(attempt: _Attempt) -> tuple[bool, float]:
    _, proof, objection = attempt
    return objection is not None, math.inf if proof is None else proof.guard_band or 0.0


def _race(entries: Sequence[EngineEntry], trial: Trial) -> Times:
    """Without engines that can't be opened, or run, while the others are open: memory may be too small."""
    engines = dict[str, Engine]()
    with ExitStack() as stack:
        for entry in entries:
            with suppress(BundleError):
                engines[entry.id] = stack.enter_context(closing(trial.open(entry)))
        return race(engines, trial.golden.frames, BATCH_SIZES, rounds=_ROUNDS)


def _preference(proof: EngineParity) -> tuple[int, float]:
    """Sort key. First GPU engines that could not be run, since a machine that can run one has its GPU for
    this; then measured engines, fastest first; then the rest."""
    if proof.ms_per_image is None:
        return (0 if proof.status == "not_run" and on_gpu(proof.id) else 2), 0.0
    return 1, sum(proof.ms_per_image)
