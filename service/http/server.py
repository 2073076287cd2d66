"""uvicorn with uvloop and httptools on sockets of our own; signals stay with the service."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.problems import MEDIA_TYPE, Problem
from service.tls import Tls


class Protocol(HttpToolsProtocol):
    """Answers what is not HTTP with a problem document, too."""

    def send_400_response(self, msg: str) -> None:
        problem = Problem(title="Bad Request", status=400, detail=msg.rstrip("."))
        content = orjson.dumps(problem.model_dump(exclude_none=True))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + content)
        self.transport.close()


class Server(uvicorn.Server):
    """One application on several listening sockets."""

    def __init__(self, app: ASGIApp, sockets: list[socket], tls: Tls | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                ssl_context_factory=None if tls is None else lambda *_: tls.context,
            )
        )
        self._sockets = sockets
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self.serve(self._sockets))
        await self._listening.wait()

    async def stop(self, seconds: float) -> None:
        """Accepts nothing more; returns when everything accepted has been answered, or after `seconds`."""
        assert self._task is not None
        self.config.timeout_graceful_shutdown = max(1, round(seconds))
        self.should_exit = True
        await self._task

    async def cut(self) -> None:
        """Ends a `stop` that takes too long."""
        self.force_exit = True
