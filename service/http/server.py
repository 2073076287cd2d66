"""uvicorn with uvloop and httptools on the service's sockets, without its signal handlers."""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import AF_UNIX, socket
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from service.http.protocol import Protocol, limits_of
from service.metrics import Metrics
from service.settings import Settings
from service.tls import Tls

_TICKS_PER_SWEEP = 5  # uvicorn ticks ten times a second
_HURRY_SECONDS = 1.0
_LAST_WORD_SECONDS = 1.0


class Server(uvicorn.Server):
    """One application on several listening sockets. With `tls`, TCP sockets use TLS; unix sockets don't."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: list[socket],
        settings: Settings,
        metrics: Metrics,
        tls: Tls | None = None,
    ) -> None:
        own = {"settings": settings, "seconds": limits_of(settings), "idle": {}, "metrics": metrics}
        self._protocol: type[Protocol] = type("LimitedProtocol", (Protocol,), own)
        super().__init__(
            uvicorn.Config(
                app,
                http=self._protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(settings.idle_seconds),
            )
        )
        self._sockets, self._tls = sockets, tls
        self._handshake_seconds = settings.head_seconds
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listens without uvicorn, which treats all sockets alike and allows a minute per TLS handshake."""
        await super().startup([])
        config, loop = self.config, asyncio.get_running_loop()
        protocol = partial(self._protocol, config, self.server_state, self.lifespan.state)
        for listening in self._sockets:
            secure: dict[str, Any] = {}
            if self._tls is not None and listening.family != AF_UNIX:
                secure = {"ssl": self._tls.context, "ssl_handshake_timeout": self._handshake_seconds}
            server = await loop.create_server(protocol, sock=listening, backlog=config.backlog, **secure)
            self.servers.append(server)
        self._listening.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                cast(Protocol, connection).sweep(now)
        return await super().on_tick(counter)

    async def start(self) -> None:
        """Returns once connections are accepted; raises what prevents that."""
        self._task = asyncio.create_task(self.serve(self._sockets))
        listening = asyncio.create_task(self._listening.wait())
        try:
            await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
        if self._task.done():
            await self._task

    def leave(self) -> None:
        """Still serves, but ends each connection with its next answer, rather than under a request."""
        self._protocol.leaving = True

    async def stop(self, seconds: float) -> None:
        """Accepts no more requests; returns when all accepted ones are answered, or after `seconds`."""
        assert self._task is not None
        self.config.timeout_graceful_shutdown = max(1, round(seconds))
        self.should_exit = True
        await self._task
        under_way = tuple(self.server_state.tasks)
        if self.force_exit:  # uvicorn does not end them then
            for task in under_way:
                task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=_LAST_WORD_SECONDS)

    async def cut(self) -> None:
        """Makes a running `stop` return soon; requests under way get a second, as gRPC gives its calls."""
        await asyncio.sleep(_HURRY_SECONDS)
        self.force_exit = True
