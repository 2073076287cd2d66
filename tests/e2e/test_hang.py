"""An engine that hangs: the service reports it, and can still be stopped."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from grpc import insecure_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from export.bundle import Bundle, Prediction, Predictor
from service import app, catalog
from service.access.tokens import make_token
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import POISON, Gate
from tests.service.images import plain


def health(running: Running, name: str) -> httpx.Response:
    return httpx.get(f"{running.url}/health/{name}")


@pytest.mark.parametrize("gpu", ["", "tile"])
def test_a_hanging_engine_fails_liveness_until_it_returns(
    models: Path, caplog: pytest.LogCaptureFixture, gpu: str
) -> None:
    gate = Gate(gpu=gpu)
    with (
        caplog.at_level(logging.WARNING),
        serving(models, gate.start, engine_hang_seconds=0.3) as running,
        insecure_channel(running.target) as channel,
        ThreadPoolExecutor(1) as caller,
    ):
        gate.shut()
        frame = caller.submit(httpx.post, f"{running.url}/v1/inspect?product=tile", content=plain(200))
        gate.wait_for_batch()
        wait_until(lambda: health(running, "live").status_code == 503)
        assert "the engine hangs" in health(running, "live").json()["detail"]
        assert "the engine hangs" in health(running, "ready").json()["detail"]
        asked = health_pb2.HealthCheckRequest()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        wait_until(lambda: stub.Check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        gate.open()
        assert frame.result().json()["verdict"] == "NG"
        wait_until(lambda: health(running, "ready").status_code == 200)
        wait_until(lambda: "ready again" in caplog.messages)

    assert sum("the engine hangs" in message for message in caplog.messages) == 1


def test_an_engine_that_fails_on_every_batch_fails_liveness_until_it_answers(models: Path) -> None:
    """As after a GPU was lost."""
    with serving(models, Gate().start) as running, httpx.Client(base_url=running.url) as http:

        def inspect(level: int) -> int:
            return http.post("/v1/inspect?product=tile", content=plain(level)).status_code

        assert {inspect(POISON) for _ in range(19)} == {500}
        assert health(running, "live").status_code == 200
        assert inspect(POISON) == 500
        assert "has failed on the last 20 batches" in health(running, "live").json()["detail"]
        assert health(running, "ready").status_code == 503
        assert inspect(2) == 200
        assert health(running, "live").status_code == health(running, "ready").status_code == 200


def test_an_engine_that_fails_is_the_reason_whatever_the_token_is_for(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    made = make_token("all", None, None), make_token("tile-only", ("tile",), None)
    (tmp_path / "tokens").write_text("".join(token.line() for _, token in made), encoding="utf-8")
    with serving(tmp_path / "models", Gate().start, tokens=tmp_path / "tokens") as running:
        every, tile = (
            httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {secret}"})
            for secret, _ in made
        )
        with every, tile:
            for _ in range(20):
                assert tile.post("/v1/inspect?product=tile", content=plain(POISON)).status_code == 500
            told = {
                caller.get(f"/health/{name}").json()["detail"]
                for caller in (every, tile)
                for name in ("live", "ready")
            }
    assert told == {"the engine has failed on the last 20 batches"}


def test_a_version_that_loads_for_minutes_holds_back_neither_health_nor_the_end(models: Path) -> None:
    gate, loading, go_on = Gate(), Event(), Event()

    def start(bundle: Bundle, engine: str) -> Predictor:
        if bundle.manifest.version > 1:
            loading.set()
            go_on.wait(60)
        return gate.start(bundle, engine)

    with (
        ThreadPoolExecutor(1) as caller,
        serving(models, start, engine_hang_seconds=0.3, drain_seconds=0.5) as running,
        insecure_channel(running.target) as channel,
    ):
        make_bundle(models)
        assert loading.wait(20)
        gate.shut()
        caller.submit(httpx.post, f"{running.url}/v1/inspect?product=tile", content=plain(200))
        gate.wait_for_batch()
        asked = health_pb2.HealthCheckRequest()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        wait_until(lambda: stub.Check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        gate.open()
        ends = time.monotonic()
    took = time.monotonic() - ends
    go_on.set()
    assert took < 30


def test_a_product_that_hangs_at_the_start_keeps_no_other_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_STALLED_SECONDS", 0.5)
    monkeypatch.setattr(catalog, "_LOAD_SECONDS", 0.1)
    for product in ("bolt", "tile"):
        make_bundle(tmp_path, product)
    go_on = Event()

    def start(bundle: Bundle, engine: str) -> Predictor:
        if bundle.manifest.product == "bolt":
            go_on.wait(60)
        return bundle.start(engine)

    with serving(tmp_path, start) as running:
        wait_until(lambda: health(running, "ready").status_code == 200)
        answer = httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(200))
        products = httpx.get(f"{running.url}/v1/products").json()["products"]
        go_on.set()
        wait_until(lambda: health(running, "ready?product=bolt").status_code == 200)

    assert answer.json()["verdict"] == "NG"
    assert [product["state"] for product in products] == ["STARTING", "READY"]


@pytest.mark.parametrize("hurried", [False, True])
def test_a_hanging_engine_does_not_keep_the_service_from_its_end(models: Path, hurried: bool) -> None:
    gate = Gate()
    patience = 600 if hurried else 0.5
    with ThreadPoolExecutor(1) as caller:
        with serving(models, gate.start, engine_hang_seconds=0.3, drain_seconds=patience) as running:
            gate.shut()
            url = f"{running.url}/v1/inspect?product=tile"
            frame = caller.submit(httpx.post, url, content=plain(200), timeout=60)
            gate.wait_for_batch()
            if hurried:
                running.service.end_soon()
        assert gate.closed == []
        gate.open()
        answer = frame.result()
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the service is ending"


class _Ending(Predictor):
    """Ends its thread at the first frame that is not black: black ones are used to measure the pace."""

    def __init__(self, bundle: Bundle, engine: str) -> None:
        self._proven = False
        super().__init__(bundle, bundle.manifest.engines[0], {})
        self._proven = True

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        if self._proven and frames.any():
            raise SystemExit
        return super().predict(frames)


def test_when_the_engine_s_thread_ends_its_batch_and_all_later_frames_fail(models: Path) -> None:
    with serving(models, _Ending) as running:
        url = f"{running.url}/v1/inspect?product=tile"
        assert httpx.post(url, content=plain(200)).status_code == 500
        assert httpx.post(url, content=plain(200)).status_code == 503
        assert health(running, "live").status_code == 503
