"""httptools' parser for a service that never changes the protocol."""

from typing import Any, Protocol

from httptools import HttpParserUpgrade, HttpRequestParser

_FRAMING = (b"connection", b"content-length", b"transfer-encoding")


class _Receiver(Protocol):
    """What is told of a request; it has to ignore a head while it is reading a body."""

    headers: list[tuple[bytes, bytes]]


class Parser(HttpRequestParser):
    """Reads requests that ask for another protocol like any others (RFC 9110, 7.8).

    httptools ends them at their head, and would take their body for the next request. So the parser starts
    anew with what the head says of the body and the connection.
    """

    def __init__(self, receiver: _Receiver) -> None:
        self._receiver = receiver
        self._start()

    def feed_data(self, data: Any) -> None:
        while True:
            try:
                super().feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            fields = (b"%s: %s\r\n" % field for field in self._receiver.headers if field[0] in _FRAMING)
            head = b"POST / HTTP/%s\r\n%s\r\n" % (self.get_http_version().encode(), b"".join(fields))
            self._start()  # without the `Upgrade` field, a `Connection: upgrade` says nothing
            super().feed_data(head)

    def _start(self) -> None:
        super().__init__(self._receiver)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
