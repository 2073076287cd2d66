"""Each door has a status for every error there is."""

import pytest
from google.rpc import error_details_pb2

from service import errors
from service.http.problems import STATUS, problem_of
from service.rpc.convert import CODE, status_of

_NEVER_OVER_GRPC = {errors.TooSlow, errors.CallerGone}
"""gRPC itself receives whole messages, and cancels the calls of callers who leave."""


def leaves(error: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    below = error.__subclasses__()
    return set().union(*map(leaves, below)) if below else {error}


def test_each_door_has_a_status_for_every_error() -> None:
    there_are = leaves(errors.ServiceError)

    assert set(STATUS) == there_are
    assert set(CODE) == there_are - _NEVER_OVER_GRPC


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0, 1), (0.1, 100), (2.5, 2500)])
def test_a_refusal_over_grpc_says_when_to_retry(seconds: float, milliseconds: int) -> None:
    refusal = errors.Busy("the queue is full", reason="queue_frames", retry_after=seconds)
    retry = error_details_pb2.RetryInfo()

    (detail,) = status_of(refusal).details

    assert detail.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == milliseconds


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "1"), (1.0, "1"), (1.2, "2")])
def test_a_refusal_over_http_says_when_to_retry_in_whole_seconds(seconds: float, said: str) -> None:
    """Rounded up: sooner than that, the caller would be refused again."""
    refusal = errors.Busy("the queue is full", reason="queue_frames", retry_after=seconds)

    assert problem_of(refusal).headers["retry-after"] == said
