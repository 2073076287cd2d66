"""The parity certificate: which engines agree with the checkpoint, and how each is best run. One that differs
too much is not put into the bundle."""

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress

from pydantic import BaseModel, ConfigDict

from export.bundle.engines.engine import Engine, EngineFailed
from export.bundle.engines.kinds import kind
from export.bundle.manifest import BATCH_SIZES, MAX_GUARD_BAND, BundleError, EngineEntry
from export.engines import variants
from export.proof import EngineParity, ParityError, Proved, Trial, prove, prove_half_graph
from export.race import Times, race

_ROUNDS = 5
"""Timed runs per engine and batch size."""

_NARROW = MAX_GUARD_BAND / 2
"""A guard band with which no other way to run the engine is tried."""


class Parity(BaseModel):
    """The content of `parity.json`; `frames` is the number of golden frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    engines: tuple[EngineParity, ...]


def certify(entries: Sequence[EngineEntry], trial: Trial) -> tuple[list[Proved], dict[str, str]]:
    """Every engine but those that fail, in order of preference; and, by id, the reasons why these, and those
    that deviate too much, must be left out.

    Raises ParityError on a flip, except by an int8 engine, which has failed: not every network can be
    quantised. So have float16 engines that can't be run here if their graph fails or flips on the CPU.
    """
    ways, proofs, unfit = dict[str, EngineEntry](), dict[str, EngineParity](), dict[str, str]()
    for entry in entries:
        try:
            ways[entry.id], proofs[entry.id] = _best_way(variants(entry), trial)
        except (ParityError, EngineFailed) as error:
            if isinstance(error, ParityError) and kind(entry.id).precision != "int8":
                raise
            unfit[entry.id] = str(error)
    if unseen := [proof for proof in proofs.values() if proof.status == "not_run" and _in_float16(proof)]:
        try:
            half = prove_half_graph(trial)
        except (BundleError, ParityError, EngineFailed) as error:
            unfit |= {proof.id: str(error) for proof in unseen}
            proofs = {name: proof for name, proof in proofs.items() if name not in unfit}
        else:
            proofs |= {proof.id: _as_on_the_cpu(proof, half) for proof in unseen}
            if half.objection:
                unfit |= {proof.id: half.objection for proof in unseen}
    unfit |= {name: proof.objection for name, proof in proofs.items() if proof.objection}
    run = [name for name, proof in proofs.items() if proof.status == "verified" and name not in unfit]
    times = _race([ways[name] for name in run], trial)
    timed = [proof.model_copy(update={"ms_per_image": times.get(proof.id)}) for proof in proofs.values()]
    return [(ways[proof.id], proof) for proof in sorted(timed, key=_preference)], unfit


def _best_way(ways: Sequence[EngineEntry], trial: Trial) -> Proved:
    """The first of the `ways` to run an engine whose guard band is narrow, or that with the narrowest. If it
    fails or flips in all of them, raises EngineFailed or, with a flip, ParityError."""
    proved, failures = list[Proved](), list[ParityError | EngineFailed]()
    for way in ways:
        try:
            proof = prove(way, trial)
        except (ParityError, EngineFailed) as error:
            failures.append(error)
            continue
        proved.append((way, proof))
        if proof.objection is None and (proof.guard_band or 0.0) <= _NARROW:
            break
    if not proved:
        raise next((error for error in failures if isinstance(error, ParityError)), failures[0])
    return min(proved, key=_width)


def _width(proved: Proved) -> tuple[bool, float]:
    _, proof = proved
    return proof.objection is not None, proof.guard_band or 0.0


def _in_float16(proof: EngineParity) -> bool:
    return kind(proof.id).precision == "fp16"


def _as_on_the_cpu(proof: EngineParity, half: EngineParity) -> EngineParity:
    """The proof of an engine that was not run, with the guard band that its graph needs."""
    reason = f"{proof.reason}; its graph on the CPU: {half.guard_band:.1e}"
    return proof.model_copy(update={"guard_band": half.guard_band, "reason": reason})


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
        return (0 if proof.status == "not_run" and kind(proof.id).gpu else 2), 0.0
    return 1, sum(proof.ms_per_image)
