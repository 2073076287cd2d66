import time

import pytest

from service.errors import DeadlinePassed
from service.values import Request


def request(deadline: float | None) -> Request:
    return Request(image=b"", product="tile", arrived=time.monotonic(), deadline=deadline)


def test_a_late_answer_is_none() -> None:
    request(None).check_deadline()
    request(time.monotonic() + 60).check_deadline()
    with pytest.raises(DeadlinePassed):
        request(time.monotonic() - 1e-6).check_deadline()
