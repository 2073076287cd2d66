"""Every reason why an image gets no verdict. Each door has one table from these errors to its status codes.

ServiceError
├── BadInput            the caller's mistake; the same request, sent as slowly, fails again
│   ├── BadImage            not an image, damaged, or of an unsupported format
│   ├── UnlikeDeclared      the content differs from its declared type, or the type is unsupported
│   ├── BadParameter        missing, unknown, malformed or contradictory
│   ├── TooLarge            too many bytes or pixels
│   ├── TooSlow             the request did not arrive in time
│   ├── NotFound            no such product, version or verdict
│   └── Denied              the caller has no right to ask
│       ├── Unauthenticated     no valid token
│       └── Forbidden           a valid token, but not for this
├── Refused             not now: the same request may succeed after `retry_after` seconds
│   ├── Busy                the queue is full, or the deadline can't be met
│   └── NotServing          starting or draining, or no version is READY
├── DeadlinePassed      the deadline passed before the answer
├── CallerGone          the caller has disconnected
└── InspectionFailed    the engine failed on this image, or the service has a bug
"""

from typing import ClassVar, Literal

Outcome = Literal["ok", "bad_input", "refused", "expired", "cancelled", "failed"]
Reason = Literal[
    "queue_frames",
    "queue_bytes",
    "deadline",
    "starting",
    "draining",
    "failed",
    "worker",
    "reconnect",
    "unread",
    "watchers",
]
"""Why a request is refused; of a frame, the label of `drd_rejected_total`."""


class ServiceError(Exception):
    """Base of the tree; the message is one line for the caller."""

    outcome: ClassVar[Outcome] = "failed"


class BadInput(ServiceError):
    outcome = "bad_input"


class BadImage(BadInput):
    pass


class UnlikeDeclared(BadInput):
    pass


class BadParameter(BadInput):
    pass


class TooLarge(BadInput):
    pass


class TooSlow(BadInput):
    pass


class NotFound(BadInput):
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
    """`retry_after` is in seconds."""

    outcome = "refused"

    def __init__(self, message: str, *, reason: Reason, retry_after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Busy(Refused):
    pass


class NotServing(Refused):
    pass


def shutting_down() -> NotServing:
    """For a request that the shutdown overtakes."""
    return NotServing("the service is ending", reason="draining", retry_after=1)


class DeadlinePassed(ServiceError):
    outcome = "expired"


class CallerGone(ServiceError):
    outcome = "cancelled"


class InspectionFailed(ServiceError):
    pass
