"""Each door has a status for every error there is."""

from service import errors
from service.http.problems import STATUS
from service.rpc.convert import CODE

_NEVER_OVER_GRPC = {errors.TooSlow, errors.CallerGone}
"""gRPC itself receives whole messages, and cancels the calls of callers who leave."""


def leaves(error: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    below = error.__subclasses__()
    return set().union(*map(leaves, below)) if below else {error}


def test_each_door_has_a_status_for_every_error() -> None:
    there_are = leaves(errors.ServiceError)

    assert set(STATUS) == there_are
    assert set(CODE) == there_are - _NEVER_OVER_GRPC
