import random
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from service.client import Frame
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving
from tests.service.engines import Gate
from tests.service.images import plain


def frame(level: int, **more: Any) -> Frame:
    """A frame with a long deadline."""
    given: dict[str, Any] = {"image": plain(level), "product": "tile", "frame_id": f"part {level}"}
    return Frame(**given | {"deadline": 60} | more)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Running]:
    """A service with one product, `tile`, behind a gate, and room for two frames."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tile")
    with serving(models, gate.start, max_image_bytes=200_000, max_queued_frames=2) as service:
        yield service


@pytest.fixture(params=["http", "grpc"])
def address(request: pytest.FixtureRequest, running: Running) -> str:
    """The service's address; each test runs once per door."""
    return running.url if request.param == "http" else f"grpc://{running.target}"


def refusals(running: Running) -> float:
    return running.sample("drd_rejected_total", product="tile", reason="queue_frames")


@pytest.fixture
def free_port() -> int:
    return unused_port()


def unused_port() -> int:
    """A port on which nothing listens and which the kernel does not assign by itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def started(command: Sequence[str | Path], announces: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a process, waits for `announces` on its standard error, and stops it after the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as popen:
        assert popen.stderr is not None
        try:
            assert any(announces in line for line in popen.stderr)
            threading.Thread(target=popen.stderr.read).start()  # so that its pipe never fills
            yield popen
        finally:
            popen.kill()
