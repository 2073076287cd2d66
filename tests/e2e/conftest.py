from collections.abc import Iterator

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
