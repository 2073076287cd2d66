"""Everything that can keep a frame from its verdict. Its meaning on the wire is each door's own table.

ServiceError
├── BadInput            the caller's doing; the same request will fail again
│   ├── UnreadableImage     not a picture, damaged, or of another format
│   ├── UnlikeDeclared      another format than its declared type, or a type that is not served
│   ├── BadParameter        missing, unknown, malformed or contradictory
│   ├── TooLarge            too many bytes or pixels
│   ├── TooSlow             did not arrive in time
│   ├── NotLoaded           no such product, or not in that version
│   └── Denied              nobody who may ask
│       ├── Unauthenticated     no token, or none that is valid
│       └── Forbidden           a valid one, but not for this
├── Refused             not now: the same request may succeed after `retry_after` seconds
│   ├── Busy                no place in the queue, or the deadline can't be met
│   └── NotServing          starting or draining
├── DeadlinePassed      too late for the caller to act on
├── CallerGone          nobody is there to be answered
└── InspectionFailed    the engine failed on this frame, or the service has a fault
"""

from typing import ClassVar, Literal

Outcome = Literal["ok", "bad_input", "refused", "expired", "cancelled", "failed"]


class ServiceError(Exception):
    """Base of the tree; the message is one line for the caller."""

    outcome: ClassVar[Outcome] = "failed"


class BadInput(ServiceError):
    outcome = "bad_input"


class UnreadableImage(BadInput):
    pass


class UnlikeDeclared(BadInput):
    pass


class BadParameter(BadInput):
    pass


class TooLarge(BadInput):
    pass


class TooSlow(BadInput):
    pass


class NotLoaded(BadInput):
    pass


class Denied(BadInput):
    """`reason` is the label of `drd_denied_total`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unauthenticated(Denied):
    pass


class Forbidden(Denied):
    pass


class Refused(ServiceError):
    """`reason` names the limit in `drd_rejected_total`; `retry_after` is in seconds."""

    outcome = "refused"

    def __init__(self, message: str, *, reason: str, retry_after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Busy(Refused):
    pass


class NotServing(Refused):
    pass


class DeadlinePassed(ServiceError):
    outcome = "expired"


class CallerGone(ServiceError):
    outcome = "cancelled"


class InspectionFailed(ServiceError):
    pass
