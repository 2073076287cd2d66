"""Where Alertmanager's messages arrive."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.http_server import http_server


@dataclass(frozen=True)
class Messages:
    url: str
    alerts: set[tuple[str, str, str]] = field(default_factory=set)
    """Receiver, name and status of every alert that was told."""


@contextmanager
def messages() -> Iterator[Messages]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"]:
                received.alerts.add((self.path[1:], alert["labels"]["alertname"], alert["status"]))
            self.send_response(200)
            self.end_headers()

    with http_server(Handler) as url:
        received = Messages(url)
        yield received
