"""Which engines agree with the checkpoint, and how each is best run. One that differs too much is left out of
the bundle."""

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

from export.benchmark import Times, benchmark
from export.bundle.engines.engine import Engine, EngineFailed
from export.bundle.engines.specs import spec_of
from export.bundle.manifest import BATCH_SIZES, MAX_GUARD_BAND, BundleError, EngineEntry
from export.parity import Baseline, EngineParity, ParityError, check_float16_graph, check_parity
from export.prepare import configurations

_ROUNDS = 5
"""Timed runs per engine and batch size."""

_NARROW = MAX_GUARD_BAND / 2
"""A guard band with which no other configuration of the engine is tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine, as it is best run, and what its checks gave."""

    entry: EngineEntry
    parity: EngineParity | None
    """None if the engine failed, or reversed a verdict."""
    rejection: str | None
    """The reason why it must be left out; None: it may serve."""


def verify_engines(entries: Sequence[EngineEntry], baseline: Baseline) -> list[Candidate]:
    """Every engine, compared with the checkpoint and timed, in order of preference.

    Raises ParityError on a flip, except by an int8 engine, which is rejected: not every network can be
    quantised. Also rejected are float16 engines that can't be run here and whose graph fails or flips on the
    CPU.
    """
    candidates = [_verified(entry, baseline) for entry in entries]
    candidates = _checked_on_the_cpu(candidates, baseline)
    times = _times([each.entry for each in candidates if _can_serve_here(each)], baseline)
    return sorted((_timed(candidate, times) for candidate in candidates), key=_preference)


def _verified(entry: EngineEntry, baseline: Baseline) -> Candidate:
    """`entry` in its first configuration whose guard band is narrow, or in that with the narrowest."""
    tried, failures = list[Candidate](), list[EngineFailed | ParityError]()
    for configuration in configurations(entry):
        try:
            parity = check_parity(configuration, baseline)
        except (EngineFailed, ParityError) as error:
            failures.append(error)
            continue
        tried.append(Candidate(configuration, parity, parity.rejection))
        if parity.rejection is None and (parity.guard_band or 0.0) <= _NARROW:
            break
    if tried:
        return min(tried, key=_width)
    flips = [error for error in failures if isinstance(error, ParityError)]
    if flips and spec_of(entry.id).precision != "int8":
        raise flips[0]
    return Candidate(entry, None, str((flips or failures)[0]))


def _width(candidate: Candidate) -> tuple[bool, float]:
    """Sort key: accepted ones first, then by guard band."""
    band = candidate.parity.guard_band if candidate.parity else None
    return candidate.rejection is not None, band or 0.0


def _checked_on_the_cpu(candidates: Sequence[Candidate], baseline: Baseline) -> list[Candidate]:
    """Those that compute in float16 and were not run get the guard band that their graph needs on the CPU."""
    if not any(map(_is_unseen_float16, candidates)):
        return list(candidates)
    try:
        on_the_cpu = check_float16_graph(baseline)
    except (BundleError, ParityError, EngineFailed) as error:
        failed = str(error)
        return [
            replace(each, parity=None, rejection=failed) if _is_unseen_float16(each) else each
            for each in candidates
        ]
    return [_with_parity_of(on_the_cpu, each) if _is_unseen_float16(each) else each for each in candidates]


def _is_unseen_float16(candidate: Candidate) -> bool:
    parity = candidate.parity
    return parity is not None and parity.status == "not_run" and spec_of(parity.id).precision == "fp16"


def _with_parity_of(graph: EngineParity, candidate: Candidate) -> Candidate:
    """`graph`: the parity of the candidate's graph on the CPU."""
    assert candidate.parity is not None
    reason = f"{candidate.parity.reason}; its graph on the CPU: {graph.guard_band:.1e}"
    parity = candidate.parity.model_copy(update={"guard_band": graph.guard_band, "reason": reason})
    return replace(candidate, parity=parity, rejection=graph.rejection)


def _can_serve_here(candidate: Candidate) -> bool:
    parity = candidate.parity
    return parity is not None and parity.status == "verified" and candidate.rejection is None


def _times(entries: Sequence[EngineEntry], baseline: Baseline) -> Times:
    """Engines that can't run while the others are open, for lack of memory, are left out."""
    engines = dict[str, Engine]()
    with ExitStack() as stack:
        for entry in entries:
            with suppress(BundleError):
                engines[entry.id] = stack.enter_context(closing(baseline.open(entry)))
        return benchmark(engines, baseline.golden.frames, BATCH_SIZES, rounds=_ROUNDS)


def _timed(candidate: Candidate, times: Times) -> Candidate:
    if candidate.parity is None:
        return candidate
    milliseconds = times.get(candidate.entry.id)
    return replace(candidate, parity=candidate.parity.model_copy(update={"ms_per_image": milliseconds}))


def _preference(candidate: Candidate) -> tuple[int, float]:
    """Sort key. First GPU engines that could not be run, since a machine that can run one has its GPU for
    this; then measured engines, fastest first; then the rest."""
    parity = candidate.parity
    if parity is not None and parity.ms_per_image is not None:
        return 1, sum(parity.ms_per_image)
    not_run = parity is not None and parity.status == "not_run"
    return (0 if not_run and spec_of(candidate.entry.id).gpu else 2), 0.0
