"""Every reason why a frame gets no verdict, as the client sees it. None of them means OK.

                                                                        HTTP                gRPC
ClientError
├── BadInput          the same request, sent as slowly, fails again     400 408 415 422     INVALID_ARGUMENT
│   ├── NotLoaded         unknown product or version                    404                 NOT_FOUND
│   └── TooLarge          too many bytes or pixels                      413                 RESOURCE_EXHAUSTED
├── AccessDenied      no valid token, or not for this product           401 403             UNAUTHENTICATED …
├── Refused           not now: queue full, deadline can't be met        429                 … with RetryInfo
│   └── NotServing        starting or draining                          503                 UNAVAILABLE
├── DeadlinePassed    no answer in time, by the service or our clock    504                 DEADLINE_EXCEEDED
├── InspectionFailed  the engine failed on this frame                   500                 INTERNAL
├── Unreachable       no connection: nothing has been sent
├── ConnectionLost    the connection broke after sending: unknown whether it was inspected
└── UnexpectedAnswer  not an answer of this service: another program may be at that address

Only Refused with a `retry_after` and Unreachable are retried: only these are safe to repeat.
"""


class ClientError(Exception):
    """Base of the tree; the message is one printable line, whatever was received."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else " " for each in message))


class BadInput(ClientError):
    pass


class NotLoaded(BadInput):
    pass


class TooLarge(BadInput):
    pass


class AccessDenied(ClientError):
    pass


class Refused(ClientError):
    """`retry_after` in seconds; None when the service did not say."""

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
