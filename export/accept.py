"""Which engines agree with the checkpoint, and how each is best run. One that differs too much is left out of
the bundle."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

from export.benchmark import Times, benchmark
from export.bundle.engines.engine import Engine, EngineFailed
from export.bundle.engines.specs import spec_of
from export.bundle.manifest import BATCH_SIZES, FLOAT32_CONVOLUTIONS, MAX_GUARD_BAND, BundleError, EngineEntry
from export.parity import Baseline, EngineParity, ParityError, check_float16_graph, check_parity
from export.prepare import LeftOut

_ROUNDS = 5
"""Timed runs per engine and batch size."""

_MORE_FLOAT32_CONVOLUTIONS = 20
"""Tried where `FLOAT32_CONVOLUTIONS` are not enough: where products look very different from part to part,
rounding in the teacher's next convolutions matters, too."""

_NARROW = MAX_GUARD_BAND / 2
"""A guard band with which no other configuration of the engine is tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine, as it is best run, and its comparison with the checkpoint."""

    entry: EngineEntry
    parity: EngineParity


def verify_engines(entries: Sequence[EngineEntry], baseline: Baseline) -> tuple[list[Candidate], LeftOut]:
    """The engines that could be compared with the checkpoint, timed, in order of preference; and which must
    be left out, of these or because they failed.

    Raises ParityError on a flip, except by an int8 engine, which is left out: not every network can be
    quantised. So are float16 engines that can't be run here and whose graph fails or flips on the CPU.
    """
    candidates, left_out = list[Candidate](), LeftOut()
    for entry in entries:
        try:
            candidates.append(_best(entry, baseline))
        except (EngineFailed, ParityError) as error:
            if isinstance(error, ParityError) and spec_of(entry.id).precision != "int8":
                raise
            left_out[entry.id] = str(error)
    unseen, refused = _checked_on_the_cpu(list(filter(_is_unseen_float16, candidates)), baseline)
    seen = [each for each in candidates if not _is_unseen_float16(each)]
    left_out |= refused | {each.entry.id: reason for each in seen if (reason := each.parity.rejection)}
    run = [each.entry for each in seen if each.parity.status == "verified" and each.entry.id not in left_out]
    times = _times(run, baseline)
    timed = [_with(each, ms_per_image=times.get(each.entry.id)) for each in seen]
    # First the unseen: a machine that can run one has its GPU for this.
    return [*unseen, *sorted(timed, key=_milliseconds)], left_out


def _best(entry: EngineEntry, baseline: Baseline) -> Candidate:
    """`entry` in its first configuration whose guard band is narrow, or in that with the narrowest. If all
    fail, raises what check_parity does: a flip rather than another failure."""
    tried, failures = list[Candidate](), list[EngineFailed | ParityError]()
    for configuration in _configurations(entry):
        try:
            tried.append(Candidate(configuration, check_parity(configuration, baseline)))
        except (EngineFailed, ParityError) as error:
            failures.append(error)
        else:
            if _width(tried[-1]) <= (False, _NARROW):
                break
    if not tried:
        raise next((error for error in failures if isinstance(error, ParityError)), failures[0])
    return min(tried, key=_width)


def _configurations(entry: EngineEntry) -> list[EngineEntry]:
    """`entry` as it can be run, to be tried in turn, the fastest first.

    Int8 has one configuration only: on tiles, where it deviates too much, its heatmaps were 0.03 and more
    from the checkpoint's with 20 convolutions in float32, too (docs/log.md, "More convolutions in float32").
    """
    if spec_of(entry.id).precision != "bf16":
        return [entry]
    return [
        entry.model_copy(update={"float32_convolutions": count})
        for count in (FLOAT32_CONVOLUTIONS, _MORE_FLOAT32_CONVOLUTIONS)
    ]


def _width(candidate: Candidate) -> tuple[bool, float]:
    """Sort key: accepted ones first, then by guard band."""
    return candidate.parity.rejection is not None, candidate.parity.guard_band or 0.0


def _is_unseen_float16(candidate: Candidate) -> bool:
    return candidate.parity.status == "not_run" and spec_of(candidate.entry.id).precision == "fp16"


def _checked_on_the_cpu(unseen: Sequence[Candidate], baseline: Baseline) -> tuple[list[Candidate], LeftOut]:
    """`unseen`, with the guard band that their graph needs on the CPU, and which must be left out."""
    if not unseen:
        return [], {}
    names = [each.entry.id for each in unseen]
    try:
        graph = check_float16_graph(baseline)
    except (BundleError, ParityError, EngineFailed) as error:
        return [], dict.fromkeys(names, str(error))
    note = f"its graph on the CPU: {graph.guard_band:.1e}"
    checked = [
        _with(each, guard_band=graph.guard_band, reason=f"{each.parity.reason}; {note}") for each in unseen
    ]
    return checked, dict.fromkeys(names, graph.rejection) if graph.rejection else {}


def _with(candidate: Candidate, **facts: object) -> Candidate:
    """The same engine with other `facts` of its comparison."""
    return replace(candidate, parity=candidate.parity.model_copy(update=facts))


def _times(entries: Sequence[EngineEntry], baseline: Baseline) -> Times:
    """Engines that can't run while the others are open, for lack of memory, are left out."""
    engines = dict[str, Engine]()
    with ExitStack() as stack:
        for entry in entries:
            with suppress(BundleError):
                engines[entry.id] = stack.enter_context(closing(baseline.open(entry)))
        return benchmark(engines, baseline.golden.frames, BATCH_SIZES, rounds=_ROUNDS)


def _milliseconds(candidate: Candidate) -> float:
    """Sort key: the fastest first, what was not timed last."""
    times = candidate.parity.ms_per_image
    return math.inf if times is None else sum(times)
