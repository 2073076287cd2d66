"""A running service on real ports, in a thread of this process or in a separate process."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import uvloop

from export.bundle import Bundle
from service.app import Service, open_service
from service.settings import Settings
from service.traces import Traces
from service.version import Start

ANYWHERE = "127.0.0.1:0"


@dataclass(frozen=True)
class Running:
    service: Service
    url: str
    target: str
    """Where gRPC listens."""

    def connected(self) -> socket.socket:
        """A connection to its HTTP door."""
        address = self.service.http[0]
        return socket.create_connection((address.host, address.port), timeout=30)

    def sample(self, series: str, **labels: str) -> float:
        """The value of a series in its metrics; 0 while it has none."""
        return self.service.metrics.registry.get_sample_value(series, labels) or 0.0


@contextmanager
def serving(
    models: Path,
    start: Start = Bundle.start,
    traces: Traces | None = None,
    notify_socket: str = "",
    **settings: Any,
) -> Iterator[Running]:
    """The service in a thread, READY."""
    given: dict[str, Any] = {
        "models": models,
        "http": ANYWHERE,
        "grpc": ANYWHERE,
        "lame_duck_seconds": 0,
        "watch_seconds": 0.05,
    } | settings
    opened: Future[tuple[Service, asyncio.AbstractEventLoop]] = Future()
    ended = asyncio.Event()

    async def serve() -> None:
        async with open_service(Settings(**given), start, traces, notify_socket) as service:
            await service.load()
            opened.set_result((service, asyncio.get_running_loop()))
            await ended.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        service, loop = opened.result(timeout=30)
        yield Running(
            service, f"http://{service.http[0]}" if service.http else "", str((service.grpc or [""])[0])
        )
    finally:
        if not opened.exception():
            loop.call_soon_threadsafe(ended.set)
        thread.join()


@dataclass(frozen=True)
class Process:
    """A `drd-serve` process. `lines` is its output until it was ready."""

    popen: subprocess.Popen[str]
    lines: tuple[str, ...]
    errors: IO[str]

    def log(self) -> list[dict[str, Any]]:
        """Its log so far."""
        # Opened again: the service would share the position of its own handle.
        whole, _, _ = Path(self.errors.name).read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def url(self) -> str:
        return next(line.split()[1] for line in self.lines if line.startswith("HTTP"))

    @property
    def target(self) -> str:
        return next(line.split()[1] for line in self.lines if line.startswith("gRPC"))


def drd_serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `drd-serve` until it exits."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=without_settings(),
        check=False,
    )


@contextmanager
def process(*arguments: str | Path, **environment: str) -> Iterator[Process]:
    """Starts it on free ports and waits until it prints the line to try."""
    command = [sys.executable, "-m", "service.cli", "--http", ANYWHERE, "--grpc", ANYWHERE, *arguments]
    with NamedTemporaryFile("w") as errors:
        yield from _started(command, errors, without_settings() | environment)


def _started(command: list[str | Path], errors: IO[str], environment: dict[str, str]) -> Iterator[Process]:
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert popen.stdout is not None
    try:
        yield Process(popen, first_lines(popen), errors)
    finally:
        popen.kill()
        popen.wait()
        popen.stdout.close()


def first_lines(popen: subprocess.Popen[str]) -> tuple[str, ...]:
    """The output up to the line to try, or the reason why it is not ready; waits up to five minutes."""
    assert popen.stdout is not None
    too_long = threading.Timer(300, popen.kill)
    too_long.start()
    try:
        lines = list[str]()
        while not (lines and lines[-1].startswith(("try", "not ready"))):
            line = popen.stdout.readline()
            assert line, f"ended with {popen.wait()} after {lines}"
            lines.append(line.rstrip("\n"))
        return tuple(lines)
    finally:
        too_long.cancel()


def without_settings() -> dict[str, str]:
    """The environment, for a `drd-serve` that has the settings it is given and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DRD_")}


def wait_until(condition: Callable[[], bool], seconds: float = 60, pause: float = 0.01) -> None:
    """Returns when `condition` holds; fails after so many seconds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        threading.Event().wait(pause)
