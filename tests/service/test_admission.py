"""Admission by forecast, with requests that are neither decoded nor run."""

import time
from asyncio import CancelledError, new_event_loop
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from export.bundle import Bundle
from service.admission import Admission, Holding
from service.errors import Busy, DeadlinePassed
from service.lane import Lane, Pending, Progress
from service.values import Part, Request
from tests.bundles import make_bundle

BUDGET = 1.0
FORECAST = 0.6


def test_an_answer_that_comes_too_late_never_proves_a_forecast(tmp_path: Path) -> None:
    """It was admitted with a smaller correction factor; with the current one it would have been refused."""
    admission = Admission(max_frames=100, max_bytes=1, workers=1, default_deadline=10)
    with closing(new_event_loop()) as loop, closing(Bundle.open(make_bundle(tmp_path)).start()) as predictor:
        lane, now = Lane(predictor), time.monotonic()
        for pace in lane.pace.infer.values():
            pace.seconds = FORECAST

        def pending(deadline: float | None) -> Pending:
            request = Request(b"", lane.product, now, deadline)
            order = admission.order(lane, now, deadline, overlay=False)
            return Pending(request, lane, order, now, loop.create_future())

        with admission.admitted(pending(None)):
            with ExitStack() as under_way:
                for number in range(60):
                    deadline = now + BUDGET - number / 10_000  # each is more urgent than all before
                    under_way.enter_context(suppress(DeadlinePassed))
                    under_way.enter_context(admission.admitted(pending(deadline)))
                    under_way.callback(passing(deadline))

            with pytest.raises(Busy, match="deadline"):
                admission.check(lane, time.monotonic() + 2 * FORECAST, overlay=False)


def passing(deadline: float) -> Callable[[], None]:
    def wait() -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise DeadlinePassed

    return wait


@dataclass
class Line:
    """A camera with a picture every 0.2 s, whose deadline is 0.15 s later; `clock` is its time."""

    lane: Lane
    admission: Admission
    clock: list[float]

    def run(self, seconds: float, engine: float, upload: float = 0.0) -> Counter[str]:
        """What becomes of the pictures of some `seconds` in which the engine takes `engine` for each."""
        counts, ends = Counter[str](), self.clock[0] + seconds
        while self.clock[0] < ends:
            due = self.clock[0]
            self.clock[0] += upload
            counts[self._one(due, engine)] += 1
            self.clock[0] = due + 0.2
        return counts

    def _one(self, arrived: float, engine: float) -> str:
        deadline = arrived + 0.15
        request = Request(b"", self.lane.product, arrived, deadline)
        with closing(new_event_loop()) as loop:
            pending = Pending(request, self.lane, deadline, arrived, loop.create_future())
            try:
                with self.admission.admitted(pending):
                    self.clock[0] += engine
                    self.lane.pace.infer[1].learn(engine)
                    if self.clock[0] > deadline:
                        raise DeadlinePassed
            except (Busy, DeadlinePassed) as error:
                return type(error).__name__
        return "answered"


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    clock = [1000.0]
    monkeypatch.setattr("service.admission.time.monotonic", lambda: clock[0])
    admission = Admission(max_frames=100, max_bytes=1, workers=1, default_deadline=10)
    with closing(Bundle.open(make_bundle(tmp_path)).start()) as predictor:
        lane = Lane(predictor)
        for pace in lane.pace.infer.values():
            pace.seconds = 0.06
        yield Line(lane, admission, clock)


def test_the_upload_is_no_error_of_the_forecast(line: Line) -> None:
    assert line.run(60, engine=0.06, upload=0.06) == {"answered": 300}


def test_after_a_slow_spell_requests_are_soon_admitted_again(line: Line) -> None:
    assert line.run(60, engine=0.06) == {"answered": 300}
    slow = line.run(180, engine=0.3)
    assert slow["answered"] == 0
    assert slow["Busy"] > 3 * slow["DeadlinePassed"]
    line.run(15, engine=0.06)
    assert line.run(60, engine=0.06) == {"answered": 300}


def test_so_they_are_while_another_product_is_never_idle(line: Line) -> None:
    now, other = line.clock[0], Lane(line.lane.predictor)
    with closing(new_event_loop()) as loop:
        request = Request(b"", other.product, now)
        with line.admission.admitted(Pending(request, other, now + 1000, now, loop.create_future())):
            line.run(60, engine=0.3)
            assert line.run(20, engine=0.3) == {"DeadlinePassed": 2, "Busy": 98}
            line.run(120, engine=0.06)
            assert line.run(60, engine=0.06) == {"answered": 300}


def test_after_a_rush_a_request_without_a_deadline_stands_where_others_do(line: Line) -> None:
    now, other = line.clock[0], Lane(line.lane.predictor)

    def order(lane: Lane) -> float:
        return line.admission.order(lane, now, None, overlay=False)

    with closing(new_event_loop()) as loop, ExitStack() as under_way:
        for _ in range(100):
            request = Request(b"", line.lane.product, now)
            pending = Pending(request, line.lane, order(line.lane), now, loop.create_future())
            under_way.enter_context(line.admission.admitted(pending))
        line.lane.pace.infer[8].seconds /= 2
        assert order(line.lane) == pending.order > order(other)  # not ahead of its own kind
    assert order(line.lane) == order(other)


def test_a_machine_that_stood_still_has_nothing_refused_afterwards(line: Line) -> None:
    assert line.run(0.2, engine=3) == {"DeadlinePassed": 1}
    line.clock[0] += 3
    assert line.run(10, engine=0.06) == {"answered": 50}


def test_too_large_a_safety_factor_does_not_last(line: Line) -> None:
    line.lane.safety_factor = 4
    line.run(15, engine=0.06)
    assert line.run(60, engine=0.06) == {"answered": 300}


def test_one_late_answer_in_twenty_is_as_it_should_be(line: Line) -> None:
    line.lane.pace.infer[1].seconds = 0.14
    assert line.run(3.8, engine=0.1) == {"answered": 19}
    assert line.lane.safety_factor == pytest.approx(0.981)
    assert line.run(0.2, engine=0.16) == {"DeadlinePassed": 1}
    assert line.lane.safety_factor == pytest.approx(1)


@pytest.mark.parametrize(("cancelled", "factor"), [(0.145, 1.019), (0.1, 1)])
def test_a_call_that_grpc_cancels_at_its_deadline_is_late(
    line: Line, cancelled: float, factor: float
) -> None:
    """gRPC's timer may be a few milliseconds ahead of ours."""
    arrived, line.lane.pace.infer[1].seconds = line.clock[0], 0.1
    request = Request(b"", line.lane.product, arrived, arrived + 0.15)
    with closing(new_event_loop()) as loop:
        pending = Pending(request, line.lane, 0, arrived, loop.create_future())
        with suppress(CancelledError), line.admission.admitted(pending):
            line.clock[0] += cancelled
            raise CancelledError
    assert line.lane.safety_factor == pytest.approx(factor)


def test_a_late_answer_to_a_doubtful_request_lets_no_other_in_for_a_second(line: Line) -> None:
    line.lane.safety_factor = 4
    line.clock[0] += 1
    assert line.run(1, engine=0.3) == {"DeadlinePassed": 1, "Busy": 4}


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (1, 0.31 + 0.02 + 0.16 + 0.01),  # until the worker is free, then its own steps
        (4, 0.2 + 0.02 + 0.16 + 0.01),  # until the engine is free
    ],
)
def test_the_forecast_by_hand(tmp_path: Path, workers: int, expected: float) -> None:
    admission = Admission(max_frames=100, max_bytes=1, workers=workers, default_deadline=10)
    with closing(new_event_loop()) as loop, ExitStack() as ahead:
        tile, bolt = (
            Lane(ahead.enter_context(closing(Bundle.open(make_bundle(tmp_path, name)).start())))
            for name in ("tile", "bolt")
        )
        now = time.monotonic()
        for lane in (tile, bolt):
            lane.pace.decode.seconds, lane.pace.read.seconds, lane.pace.overlay.seconds = 0.02, 0.01, 0.25
            for size, pace in lane.pace.infer.items():
                pace.seconds = {1: 0.1, 2: 0.16, 4: 0.24, 8: 0.4}[size]  # 0.05 per frame, if many wait

        def wait(lane: Lane, progress: Progress, order: float, *parts: Part) -> None:
            request = Request(b"", lane.product, now, parts=frozenset(parts))
            ahead.enter_context(
                admission.admitted(Pending(request, lane, order, now, loop.create_future(), progress))
            )

        wait(tile, Progress.QUEUE, now + 50)
        wait(tile, Progress.DECODE, now)
        wait(tile, Progress.READ, now, "overlay")
        wait(bolt, Progress.QUEUE, now)
        wait(bolt, Progress.INFER, now)
        wait(bolt, Progress.DECODE, now + 51, "overlay")  # is less urgent
        assert admission.check(tile, now + 50, overlay=False) == pytest.approx(expected)


def test_a_size_that_is_never_formed_is_not_forecast_by_a_measurement_on_a_busy_machine(line: Line) -> None:
    """Two cameras with one trigger: while the second is refused, no batch of two corrects it."""
    for size in (2, 4, 8):
        line.lane.pace.infer[size].seconds = 1.0
    now = line.clock[0]
    with closing(new_event_loop()) as loop:
        first = Pending(Request(b"", line.lane.product, now), line.lane, now, now, loop.create_future())
        with line.admission.admitted(first):
            forecast = line.admission.check(line.lane, now + 0.3, overlay=False)

    assert forecast == pytest.approx(3 * line.lane.pace.infer[1].seconds)


def test_what_else_is_at_work_while_a_lane_is_measured_is_no_part_of_its_pace(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines of less than twice the engine's time would be refused for seconds after each swap."""
    seconds = cycle([0.16, 0.08, 0.13])

    def predict(_: object) -> None:
        line.clock[0] += next(seconds)

    monkeypatch.setattr(line.lane.predictor, "predict", predict)
    line.lane = Lane(line.lane.predictor)
    line.lane.measure()
    assert line.run(10, engine=0.08) == {"answered": 50}


def test_large_overlays_do_not_count_for_requests_without(line: Line) -> None:
    line.lane.pace.overlay.seconds = 4
    deadline = line.clock[0] + 0.15
    line.admission.check(line.lane, deadline, overlay=False)
    with pytest.raises(Busy, match="late"):
        line.admission.check(line.lane, deadline, overlay=True)


def test_an_answer_counts_until_it_is_read_and_then_refuses_others(line: Line) -> None:
    holding = Holding(line.admission)
    holding.grow(1)
    holding.answer(1000)
    with pytest.raises(Busy), Holding(line.admission) as another:
        another.grow(1)
    holding.release()
    assert line.admission.bytes == 0


@pytest.mark.parametrize("on_gpu", [False, True])
def test_only_what_waits_for_the_same_device_is_ahead(line: Line, on_gpu: bool) -> None:
    other = Lane(line.lane.predictor)
    other.on_gpu, other.pace = on_gpu, line.lane.pace
    now = line.clock[0]
    with closing(new_event_loop()) as loop:
        ahead = Pending(Request(b"", other.product, now), other, now, now, loop.create_future())
        with line.admission.admitted(ahead), nullcontext() if on_gpu else pytest.raises(Busy, match="late"):
            line.admission.check(line.lane, now + 0.065, overlay=False)
