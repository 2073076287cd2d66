"""Limits per HTTP connection that uvicorn lacks: size, time and number.

        ┌────────────── answered ──────────────┐
        ▼                                      │
    IDLE ──first byte──▶ HEAD ──▶ BODY ──▶ ANSWER
      idle_seconds        head_seconds  receive_seconds  answer_seconds, from its first byte left unread

There is no timer per request: each connection notes when it entered its phase, and `sweep` checks all of
them every half second.

A connection that is to be closed in HEAD or BODY, or with requests that wait, lingers: it is shut for
writing, and what arrives is thrown away until the request or the caller's connection ends. The kernel would
reset a connection closed with unread data, and a caller that is still sending would lose the answer (RFC
9112, 9.6).
"""

import math
import time
from contextlib import suppress
from enum import Enum, auto
from socket import SHUT_RD
from typing import Any, ClassVar, cast

from httptools import HttpParserError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from export.bundle import UNKNOWN
from service.http.parser import Parser
from service.http.problems import problem, raw_response
from service.http.transport import Transport
from service.metrics import Metrics
from service.settings import Settings

ARRIVED = "drd.arrived"
"""Key in a request's scope: the instant of `time.monotonic` at which its head was complete."""
REASONS = {400: "malformed", 408: "slow", 414: "url", 429: "pipelined", 431: "head", 503: "connections"}
"""Label in `drd_rejected_total` of each status sent from here."""
_MAX_HEADERS, _MAX_PIPELINED = 100, 16
_GRACE_SECONDS = 2.0  # the application's own limit comes first, as it counts and logs the request
_TLS_END_SECONDS = 0.5
_FIRST_REQUEST_SECONDS = 0.5
_SILENT_SECONDS = 1.0
"""A connection that hears nothing for so long lingers no longer."""


class Phase(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()


def limits_of(settings: Settings) -> dict[Phase, float]:
    """How many seconds a connection may be in each phase."""
    return {
        Phase.IDLE: settings.idle_seconds,
        Phase.HEAD: settings.head_seconds,
        Phase.BODY: settings.receive_seconds + _GRACE_SECONDS,
        Phase.ANSWER: math.inf,  # limited by the application
    }


class _Refused(Exception):
    """Ends the parsing of a request."""


def _with_last_refusal(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """`app` for a caller that waits for `100 Continue`. An answer instead of it is the connection's last, as
    the body may never come (RFC 9110, 10.1.1): Go and Ruby would send their next request in its place."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            cycle.keep_alive &= not (cycle.waiting_for_100_continue and cycle.more_body)
            await send(message)

        await app(scope, receive, send_last)

    return answer


class Protocol(HttpToolsProtocol):
    """One connection. Refusals are problem documents, too."""

    settings: ClassVar[Settings]
    seconds: ClassVar[dict[Phase, float]]
    idle: ClassVar[dict["Protocol", None]]
    """The door's idle connections, longest idle first."""
    metrics: ClassVar[Metrics]
    """These are set in a subclass."""
    leaving: ClassVar[bool] = False
    """Whether each answer is the last of its connection, which its caller is told."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.parser = Parser(self)
        self.phase, self.since = Phase.IDLE, time.monotonic()
        self._head_bytes = self._header_bytes = 0
        self._goes_on = False
        """Whether the data continues a head that began in earlier data."""
        self._refusal: tuple[int, str] | None = None
        self._refused = False
        """Whether a request was refused, perhaps behind others to be answered first: it is the last."""
        self._answers = 0
        self._unread: tuple[int, float] | None = None
        """Which answer the caller has not fully read, and since when."""
        self._under_way: RequestResponseCycle | None = None
        """The request being answered; `cycle` is the newest one, perhaps pipelined behind it."""
        self._heard = False
        """Whether anything has arrived lately, while lingering."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast(Any, Transport(transport, self._linger)))
        self._enter(Phase.IDLE)
        if len(self.connections) > self.settings.max_connections and not self._make_room():
            self._refuse(503, "there are too many connections", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.pop(self, None)
        super().connection_lost(exc)
        self._disconnect()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._heard = True
            if self.phase is Phase.BODY:  # only to find its end
                with suppress(HttpParserError):
                    self.parser.feed_data(data)
            return
        if self._refused:
            self.flow.pause_reading()
            return
        self._goes_on = self.phase is Phase.HEAD
        super().data_received(data)
        if self._goes_on and self.phase is Phase.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.max_head_bytes:
                self._refuse(431, f"the request's head is longer than {self.settings.max_head_bytes} bytes")

    def on_message_begin(self) -> None:
        if self.phase is Phase.BODY:
            return
        if len(self.pipeline) == _MAX_PIPELINED:  # uvicorn reads on after each answer
            self._stop(429, "too many requests wait on this connection")
        super().on_message_begin()
        self._head_bytes = self._header_bytes = 0
        self._goes_on = False
        self._enter(Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        if self.phase is Phase.BODY:
            return
        super().on_url(url)
        if len(self.url) > self.settings.max_url_bytes:
            self._stop(414, f"the URL is longer than {self.settings.max_url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase is Phase.HEAD:  # a trailer field must not become a header field: RFC 9110, 6.5.1
            super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > _MAX_HEADERS or self._header_bytes > self.settings.max_head_bytes:
            allowed = f"{_MAX_HEADERS} header fields of {self.settings.max_head_bytes} bytes in all"
            self._stop(431, f"the request has more than {allowed}")

    def on_headers_complete(self) -> None:
        if self.phase is Phase.BODY:
            return
        cast(dict[str, Any], self.scope)[ARRIVED] = time.monotonic()
        super().on_headers_complete()
        self._enter(Phase.BODY)

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():  # else it is thrown away: kept, it would end the reading
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # its body follows
            return
        if self.transport.is_closing():
            self.transport.close()
            raise _Refused("no request is read behind the last one")
        super().on_message_complete()
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        self._answers += 1
        if self.pipeline:
            self._enter(self.phase)  # a pipelined request was not read until now: its time starts here
        elif self.phase is Phase.ANSWER:
            self._enter(Phase.IDLE)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        status, detail = self._refusal or (400, msg.rstrip("."))
        self._refuse(status, detail)

    def shutdown(self) -> None:
        """Called when nobody can connect any more. A new connection's request may be on its way."""
        if self.cycle is None:
            self.loop.call_later(_FIRST_REQUEST_SECONDS, self._end_connection)
        else:
            self._end_connection()

    def _end_connection(self) -> None:
        super().shutdown()
        if self.scheme == "https":
            self._end_tls()

    def sweep(self, now: float) -> None:
        """Ends the connection if it exceeds a time limit. `now` is an instant of `time.monotonic`."""
        if self._seconds_unread(now) > self.settings.answer_seconds:
            self.transport.abort()
        elif not self.pipeline and now - self.since > self.seconds[self.phase]:
            if self.phase is Phase.IDLE:
                self.transport.close()
            else:
                self._refuse(408, "the request took too long to arrive")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._under_way = cycle
        cycle.keep_alive &= not self.leaving
        if cycle.waiting_for_100_continue:
            app = _with_last_refusal(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _linger(self) -> bool:
        """Begins to linger if a request is still arriving, or may be unread; else returns False."""
        unread = self.pipeline or (self._refused and self.cycle is not None)  # what came behind the last one
        if self.phase not in (Phase.HEAD, Phase.BODY) and not unread:
            return False
        self._disconnect()
        if self.transport.can_write_eof():  # not under TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._heard = True
        self._keep_lingering(self.loop.time() + self.seconds[Phase.BODY])
        return True

    def _keep_lingering(self, until: float) -> None:
        """A timer, as `sweep` isn't called any more while the service ends."""
        if self._heard and self.loop.time() < until:
            self._heard = False
            self.loop.call_later(_SILENT_SECONDS, self._keep_lingering, until)
        else:
            self.transport.close()

    def _disconnect(self) -> None:
        """Tells the requests under way; uvicorn tells the newest one only."""
        for cycle in (self.cycle, self._under_way):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, time.monotonic()
        self.idle.pop(self, None)
        if phase is Phase.IDLE:
            self.idle[self] = None

    def _end_tls(self) -> None:
        """Closes the socket once the connection is closing: until then TLS waits for the caller to close it,
        too, and an idle caller does not read."""
        if self not in self.connections:
            return
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            with suppress(OSError), self.transport.get_extra_info("socket").dup() as connection:
                connection.shutdown(SHUT_RD)  # as if the caller had closed: what was written is still sent
        else:
            self.loop.call_later(_TLS_END_SECONDS, self._end_tls)

    def _make_room(self) -> bool:
        """Closes the longest idle connection; False if no other is idle."""
        longest = next(iter(self.idle))
        if longest is self:
            return False
        del self.idle[longest]
        longest.transport.close()
        return True

    def _seconds_unread(self, now: float) -> float:
        """Seconds for which the caller has not read what was written."""
        if not self.transport.get_write_buffer_size():
            self._unread = None
        elif self._unread is None or self._unread[0] != self._answers:
            self._unread = self._answers, now
        return now - self._unread[1] if self._unread else 0.0

    def _stop(self, status: int, detail: str) -> None:
        self._refusal = status, detail
        raise _Refused(detail)

    def _refuse(self, status: int, detail: str, headers: bytes = b"") -> None:
        """Answers with a problem and closes the connection. Behind a whole request not answered yet, only
        closes it after that answer."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.metrics.rejected.labels(UNKNOWN, REASONS[status]).inc()
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:  # what follows it is refused by closing the connection
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started:
                self.transport.abort()
                return
            if self.pipeline:  # the last of them is refused, in its turn
                self.cycle.keep_alive = False
                self.pipeline[0] = self.cycle, cast(Any, problem(status, detail))
                return
        self.transport.write(raw_response(status, detail, headers))
        self.transport.close()
