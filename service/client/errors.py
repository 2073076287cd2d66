"""Everything that can keep a frame from its verdict, as its sender sees it. Nothing of it is ever an OK.

                                                                        HTTP                gRPC
ClientError
├── BadInput          the same request will fail again                  400 408 415 422     INVALID_ARGUMENT
│   ├── NotLoaded         no such product, or not in that version       404                 NOT_FOUND
│   └── TooLarge          too many bytes or pixels                      413                 RESOURCE_EXHAUSTED
├── AccessDenied      no token, a wrong one, or not for this product    401 403             UNAUTHENTICATED …
├── Refused           not now: queue full, deadline can't be met        429                 … with RetryInfo
│   └── NotServing        starting or draining                          503                 UNAVAILABLE
├── DeadlinePassed    no answer in time, says the service or the clock  504                 DEADLINE_EXCEEDED
├── InspectionFailed  the engine failed on this frame                   500                 INTERNAL
├── Unreachable       no connection: nothing has been sent
├── ConnectionLost    sent, and the connection broke: whether it was inspected is not known
└── UnexpectedAnswer  not what the service answers: something else is at that address

Only Refused with a `retry_after` and Unreachable are safe to repeat, and only they are.
"""


class ClientError(Exception):
    """Base of the tree; the message is one line."""


class BadInput(ClientError):
    pass


class NotLoaded(BadInput):
    pass


class TooLarge(BadInput):
    pass


class AccessDenied(ClientError):
    pass


class Refused(ClientError):
    """`retry_after` in seconds; None when nobody said when to come again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotServing(Refused):
    pass


class DeadlinePassed(ClientError):
    pass


class InspectionFailed(ClientError):
    pass


class Unreachable(ClientError):
    pass


class ConnectionLost(ClientError):
    pass


class UnexpectedAnswer(ClientError):
    pass
