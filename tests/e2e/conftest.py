import time
from collections.abc import Callable, Iterator
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving
from tests.service.engines import Gate


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Running]:
    """A service with two products, `tile` and `bolt`, behind a gate."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tile")
    make_bundle(models, "bolt")
    with serving(
        models,
        gate.start,
        max_image_bytes=200_000,
        max_image_pixels=1_000_000,
        max_queued_frames=8,
        receive_seconds=1,
        stream_window=3,
    ) as service:
        yield service


@pytest.fixture
def takes_a_minute(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the named function take a minute, by the clock that requests' deadlines are checked with."""
    clock = SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr("service.values.time", clock)

    def slow_down(name: str) -> None:
        original: Callable[..., Any] = resolve_name(name)

        def slow(*given: Any) -> Any:
            clock.monotonic = lambda: time.monotonic() + 60
            return original(*given)

        monkeypatch.setattr(name, slow)

    return slow_down
