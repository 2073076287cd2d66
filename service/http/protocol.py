"""A connection before and after an application sees it: the limits that uvicorn does not have.

        ┌────────────── answered ──────────────┐
        ▼                                      │
    IDLE ──first byte──▶ HEAD ──▶ BODY ──▶ ANSWER
      idle_seconds        head_seconds  receive_seconds  answer_seconds, from the last byte written

Nothing is timed per request: each connection notes when it entered its phase, and `sweep` looks at all of
them now and then.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.problems import as_it_is_sent, problem
from service.settings import Settings

ARRIVED = "drd.arrived"
"""In a request's scope: the instant of `time.monotonic` at which its head was complete."""
_GRACE_SECONDS = 2.0  # the application's own limit comes first: it counts and logs who it sends away


class Phase(Enum):
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one door, and of each of its connections."""

    connections: int
    url_bytes: int
    head_bytes: int
    head_fields: int
    seconds: Mapping[Phase, float]
    answer_seconds: float

    @staticmethod
    def of(settings: Settings) -> "Limits":
        seconds = {
            Phase.IDLE: settings.idle_seconds,
            Phase.HEAD: settings.head_seconds,
            Phase.BODY: settings.receive_seconds + _GRACE_SECONDS,
            Phase.ANSWER: math.inf,  # how long that may take is the application's affair
        }
        return Limits(
            connections=settings.max_connections,
            url_bytes=settings.max_url_bytes,
            head_bytes=settings.max_head_bytes,
            head_fields=settings.max_head_fields,
            seconds=seconds,
            answer_seconds=settings.answer_seconds,
        )


class _Refused(Exception):
    """Ends the parsing of a request."""


class Protocol(HttpToolsProtocol):
    """One connection. Whatever is refused here is answered with a problem document, too."""

    limits: ClassVar[Limits]
    idle: ClassVar[dict["Protocol", None]]
    """The door's idle connections, in the order in which they became so. Both are set in a subclass."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.phase, self.since = Phase.IDLE, time.monotonic()
        self._head_bytes = self._header_bytes = 0
        self._refusal: tuple[int, str] | None = None
        self._answers = 0
        self._unread: tuple[int, float] | None = None
        """With which answer, and since when, what was written has not been taken."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._enter(Phase.IDLE)
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._refuse(503, "there are too many connections", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        goes_on = self.phase is Phase.HEAD
        super().data_received(data)
        if goes_on and self.phase is Phase.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(431, f"the request's head is longer than {self.limits.head_bytes} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._header_bytes = 0
        self._enter(Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop(414, f"the URL is longer than {self.limits.url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > self.limits.head_fields or self._header_bytes > self.limits.head_bytes:
            most = f"{self.limits.head_fields} header fields of {self.limits.head_bytes} bytes in all"
            self._stop(431, f"the request has more than {most}")

    def on_headers_complete(self) -> None:
        cast(dict[str, Any], self.scope)[ARRIVED] = time.monotonic()
        super().on_headers_complete()
        self._enter(Phase.BODY)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        self._answers += 1
        if self.pipeline:
            self._enter(self.phase)  # what waits behind an answer is not read, and has its time from now on
        elif self.phase is Phase.ANSWER:
            self._enter(Phase.IDLE)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        status, detail = self._refusal or (400, msg.rstrip("."))
        self._refuse(status, detail)

    def sweep(self, now: float) -> None:
        """Ends what takes too long. An instant of `time.monotonic`."""
        if self._untaken(now) > self.limits.answer_seconds:
            self.transport.abort()
        elif not self.pipeline and now - self.since > self.limits.seconds[self.phase]:
            if self.phase is Phase.IDLE:
                self.transport.close()
            else:
                self._refuse(408, "the request took too long to arrive")

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, time.monotonic()
        self.idle.pop(self, None)
        if phase is Phase.IDLE:
            self.idle[self] = None

    def _make_room(self) -> bool:
        """Closes the connection that has been idle for longest; whether there was one."""
        longest = next(iter(self.idle))
        if longest is self:
            return False
        del self.idle[longest]
        longest.transport.close()
        return True

    def _untaken(self, now: float) -> float:
        """For how long the caller has left lying what was written for it, in seconds."""
        if not self.transport.get_write_buffer_size():
            self._unread = None
        elif self._unread is None or self._unread[0] != self._answers:
            self._unread = self._answers, now
        return now - self._unread[1] if self._unread else 0.0

    def _stop(self, status: int, detail: str) -> None:
        self._refusal = status, detail
        raise _Refused(detail)

    def _refuse(self, status: int, detail: str, headers: bytes = b"") -> None:
        """Answers with a problem and closes the connection, once requests before have been answered."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:  # it is a request behind that one that is refused
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started:
                self.transport.abort()
                return
            if self.pipeline:  # it is the last of them, and refused in its turn
                self.cycle.keep_alive = False
                self.pipeline[0] = self.cycle, cast(Any, problem(status, detail))
                return
        self.transport.write(as_it_is_sent(status, detail, headers))
        self.transport.close()
