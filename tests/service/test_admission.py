"""Admission by forecast, with frames that are neither decoded nor run."""

import time
from asyncio import new_event_loop
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from export.bundle import Bundle
from service.admission import Admission
from service.errors import Busy, DeadlinePassed
from service.lane import Frame, Lane
from service.values import Request
from tests.bundles import make_bundle

BUDGET = 0.3
FORECAST = 0.18


def test_a_frame_that_comes_too_late_never_proves_a_forecast(tmp_path: Path) -> None:
    """It was admitted with a smaller correction factor; with the current one it would have been refused."""
    admission = Admission(max_frames=100, max_bytes=1, workers=1, patience=1)
    with closing(new_event_loop()) as loop, closing(Bundle.open(make_bundle(tmp_path)).start()) as predictor:
        lane, now = Lane(predictor), time.monotonic()
        for pace in lane.pace.infer.values():
            pace.seconds = FORECAST

        def frame(deadline: float | None) -> Frame:
            request, order = Request(b"", lane.product, now, deadline), admission.order(lane, now, deadline)
            return Frame(request, lane, order, now, loop.create_future())

        with admission.admitted(frame(None)):
            with ExitStack() as under_way:
                for number in range(60):
                    deadline = now + BUDGET - number / 10_000  # each is more urgent than all before
                    under_way.enter_context(suppress(DeadlinePassed))
                    under_way.enter_context(admission.admitted(frame(deadline)))
                    under_way.callback(passing(deadline))

            with pytest.raises(Busy, match="deadline"):
                admission.check(lane, time.monotonic() + 2 * FORECAST)


def passing(deadline: float) -> Callable[[], None]:
    def wait() -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise DeadlinePassed

    return wait
