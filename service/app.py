"""The service from its first socket to its last answer.

sockets ─▶ doors, not ready ─▶ products ─▶ READY ─▶ SIGTERM ─▶ lame duck ─▶ all answered ─▶ engines closed
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from starlette.types import ASGIApp

from export.bundle import Bundle, TrustedKey
from service.access.access import Access
from service.archive import Archive
from service.calls import Calls
from service.history import History
from service.http.app import make_admin_app, make_app
from service.http.server import Server as HttpServer
from service.inspector import Inspector
from service.listen import listen, name_of
from service.logs import LogOnce
from service.metrics import Metrics
from service.rpc.server import Server as GrpcServer
from service.settings import Address, Settings
from service.systemd import Systemd
from service.threads import run_in_daemon_thread
from service.tls import Tls
from service.traces import Traces, open_traces
from service.version import Start

_TELL_SECONDS = 1.0
"""Well below what anybody sets for systemd's watchdog."""
_STALLED_SECONDS = 60.0
"""When no product has been loaded for so long at the start, the others don't wait any longer."""
_logger = logging.getLogger(__name__)


class Service:
    """A service whose doors are open. `http`, `grpc` and `admin` are the addresses it is bound to."""

    def __init__(
        self,
        settings: Settings,
        stack: AsyncExitStack,
        start: Start,
        traces: Traces | None,
        systemd: Systemd,
    ) -> None:
        self._settings, self._stack, self._systemd = settings, stack, systemd
        self.metrics = Metrics(takt_seconds=settings.takt_ms / 1000)
        self.access = Access(settings.tokens, self.metrics)
        self.tls = _tls(settings)
        if self.tls is not None:
            self.metrics.certificate_expiry_seconds.set_function(self.tls.seconds_left)
        trusted = TrustedKey(settings.trusted_key) if settings.trusted_key else None
        self.inspector = Inspector(settings, self.metrics, start, trusted)
        self.history = History(settings.history_bytes)
        self._archive = _archive(settings, self.metrics)
        self._calls = Calls(self.inspector, self.metrics, self.history, self._archive, traces)
        self.http: tuple[Address, ...] = ()
        self.grpc: tuple[Address, ...] = ()
        self.admin: tuple[Address, ...] = ()
        self.http_door: HttpServer | None = None
        self.grpc_door: GrpcServer | None = None
        self._end_soon = asyncio.Event()
        self._log_once = LogOnce()

    async def open(self) -> None:
        """Listens on every address, or raises CannotListen. What is registered first is closed last."""
        settings, stack = self._settings, self._stack
        self._repeat("systemd", self._tell_systemd, _TELL_SECONDS)  # to the very end
        if self.access.needed and not self.tls and not all(a.is_local for a in settings.http + settings.grpc):
            _logger.warning("tokens are sent in clear text, unless a proxy adds TLS: see --tls-certificate")
        if self._calls.traces is not None:
            stack.push_async_callback(asyncio.to_thread, self._calls.traces.close)
        if self._archive is not None:
            stack.push_async_callback(self._archive.close)
        stack.push_async_callback(self.inspector.close)
        stack.push_async_callback(self.inspector.catalog.close)
        if settings.admin is not None:
            health = make_admin_app(self.inspector.readiness, self.metrics)
            admin, self.admin = await self._serve(health, (settings.admin,))
            stack.push_async_callback(admin.stop, 1)
        # Before they open: one may find its address taken when another is open already.
        stack.callback(self.inspector.readiness.close)
        stack.push_async_callback(self._close_doors)
        stack.callback(self.history.close)
        if settings.http:
            app = make_app(self._calls, self.access, settings)
            self.http_door, self.http = await self._serve(app, settings.http, self.tls)
        if settings.grpc:
            self.grpc_door = GrpcServer(self._calls, self.access, self.tls, settings)
            self.grpc = tuple(self.grpc_door.bind(address) for address in settings.grpc)
            await self.grpc_door.start()
        self._systemd.tell("READY=1")

    async def load(self) -> None:
        """Loads the products, then follows changes of their folder, of tokens and of certificates."""
        await asyncio.gather(self.inspector.catalog.refresh(_STALLED_SECONDS), self.inspector.warm_up())
        self.inspector.readiness.start()
        self._stack.push_async_callback(self._withdraw)
        await self._show_health()
        watch = self._settings.watch_seconds
        self._repeat("the models folder", partial(self.inspector.catalog.refresh, watch / 2), watch)
        # Apart from loading, which may take minutes: an engine may hang at any time.
        self._repeat("health", self._show_health, watch)
        # Twice as often: a change counts only when two looks have found the same.
        self._repeat("tokens", partial(run_in_daemon_thread, self.access.refresh), watch / 2)
        if self.tls is not None:
            self._repeat("certificates", partial(run_in_daemon_thread, self.tls.refresh), watch)

    def end_soon(self) -> None:
        """Shortens the shutdown: no lame-duck time, and one second for requests under way."""
        self._end_soon.set()

    def _repeat(self, what: str, follow: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._stack.callback(asyncio.create_task(repeat(what, follow, seconds)).cancel)

    async def _withdraw(self) -> None:
        """Not ready any more, but still serving: callers get time to stop sending."""
        self._systemd.tell("STOPPING=1")
        self.inspector.readiness.drain()
        await self._show_health()
        if self.http_door is not None:
            self.http_door.leave()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._end_soon.wait(), self._settings.lame_duck_seconds)

    async def _close_doors(self) -> None:
        doors = [door for door in (self.http_door, self.grpc_door) if door is not None]
        cutting = asyncio.create_task(self._cut_short(doors))
        ends = time.monotonic() + self._settings.drain_seconds
        if self.grpc_door is not None:
            await self.grpc_door.end_streams(self._settings.drain_seconds)
        left = max(0.0, ends - time.monotonic())
        await asyncio.gather(*(door.stop(left) for door in doors))
        cutting.cancel()

    async def _cut_short(self, doors: list[HttpServer | GrpcServer]) -> None:
        await self._end_soon.wait()
        await asyncio.gather(*(door.cut() for door in doors))

    async def _show_health(self) -> None:
        reason = self.inspector.readiness.why_not_ready()
        if self._log_once.changed(reason):
            _logger.warning(f"not ready: {reason}" if reason else "ready again")
        if self.grpc_door is not None:
            self.grpc_door.show(ready=self.inspector.readiness.ready)

    async def _tell_systemd(self) -> None:
        """While only a restart helps, its watchdog gets no sign of life."""
        alive = ("WATCHDOG=1",) if self.inspector.readiness.alive else ()
        self._systemd.tell(f"STATUS={self.inspector.readiness.why_not_ready() or 'ready'}", *alive)

    async def _serve(
        self, app: ASGIApp, addresses: tuple[Address, ...], tls: Tls | None = None
    ) -> tuple[HttpServer, tuple[Address, ...]]:
        async with AsyncExitStack() as opened:
            sockets = [opened.enter_context(listen(address)) for address in addresses]
            names = tuple(name_of(socket) for socket in sockets)
            server = HttpServer(app, sockets, self._settings, self.metrics, tls)
            await server.start()
            opened.pop_all()
        return server, names


async def repeat(what: str, follow: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Calls `follow` every `seconds`, for ever. An unexpected failure that repeats is logged once."""
    log_once = LogOnce()
    while True:
        await asyncio.sleep(seconds)
        try:
            await follow()
            log_once.changed("")
        except Exception as error:  # a bug must not end the task unnoticed
            if log_once.changed(repr(error)):
                _logger.exception("following %s failed; it is tried again", what)


def _tls(settings: Settings) -> Tls | None:
    if settings.tls_certificate is None:
        return None
    assert settings.tls_key is not None
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _archive(settings: Settings, metrics: Metrics) -> Archive | None:
    if settings.archive is None:
        return None
    return Archive(settings.archive, settings.archive_bytes, settings.archive_verdicts, metrics)


@asynccontextmanager
async def open_service(
    settings: Settings,
    start: Start = Bundle.start,
    traces: Traces | None = None,
    notify_socket: str = "",
) -> AsyncIterator[Service]:
    """A service with open doors, its products not loaded yet. On exit it first answers what it accepted."""
    async with AsyncExitStack() as stack:
        service = Service(settings, stack, start, traces, Systemd(notify_socket))
        await service.open()
        yield service


async def run(settings: Settings, announce: Callable[[Service], None], start: Start = Bundle.start) -> None:
    """Serves until SIGTERM or SIGINT; a second signal shortens the shutdown. `announce` is called
    when the products are loaded."""
    end_requested = asyncio.Event()
    traces, notify_socket = open_traces(os.environ), os.environ.get("NOTIFY_SOCKET", "")
    async with open_service(settings, start, traces, notify_socket) as service:

        def on_signal() -> None:
            if end_requested.is_set():
                service.end_soon()
            end_requested.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        ending = asyncio.create_task(end_requested.wait())
        loading = asyncio.create_task(service.load())
        await asyncio.wait({ending, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading
            announce(service)
            await ending
        loading.cancel()
