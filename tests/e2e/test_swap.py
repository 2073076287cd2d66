"""Versions change while the service runs: no answer is lost or comes from a half-loaded version."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bundles import make_bundle, make_version, score_of
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import Gate
from tests.service.images import plain


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def running(models: Path, gate: Gate) -> Iterator[Running]:
    with serving(models, gate.start, keep_old_seconds=0.5, watch_seconds=0.02) as service:
        yield service


def inspect(running: Running, query: str = "") -> httpx.Response:
    return httpx.post(f"{running.url}/v1/inspect?product=tile&include={query}", content=plain(200))


def serves(running: Running, version: int) -> bool:
    return bool(inspect(running).json().get("version") == version)


def versions(running: Running) -> dict[int, dict[str, Any]]:
    product = httpx.get(f"{running.url}/v1/products/tile").json()
    return {version["version"]: version for version in product["versions"]}


def test_a_new_version_takes_over_and_the_old_one_can_be_asked_for_a_while(models: Path) -> None:
    with serving(models, keep_old_seconds=3) as running:
        make_bundle(models)
        wait_until(lambda: serves(running, 2))
        pinned = inspect(running, "&version=1")

        assert (pinned.status_code, pinned.json()["version"]) == (200, 1)
        wait_until(lambda: list(versions(running)) == [2])
        assert inspect(running, "&version=1").status_code == 404
        assert inspect(running, "&version=2").status_code == 200


def test_a_version_that_fails_keeps_the_old_one_serving(running: Running, models: Path) -> None:
    make_bundle(models, golden_scores=(0.0, 0.9, 0.8, 1.0))
    wait_until(lambda: versions(running).get(2, {}).get("state") == "FAILED")

    assert serves(running, 1)
    assert " scores " in versions(running)[2]["reason"]
    metrics = httpx.get(f"{running.url}/metrics").text
    assert 'drd_product_state{product="tile",state="FAILED",version="2"} 1.0' in metrics
    assert 'drd_product_state{product="tile",state="READY",version="1"} 1.0' in metrics


def test_a_failed_version_is_tried_again_when_it_changes(running: Running, models: Path) -> None:
    good = make_bundle(models, "elsewhere")
    (models / "tile" / "2").mkdir()
    (models / "tile" / "2" / "model.onnx").write_bytes(b"half copied")
    wait_until(lambda: versions(running).get(2, {}).get("state") == "FAILED")
    shutil.rmtree(models / "tile" / "2")
    shutil.rmtree(good)
    make_bundle(models)

    wait_until(lambda: serves(running, 2))


def test_rollback_is_moving_a_folder(running: Running, models: Path) -> None:
    make_bundle(models)
    wait_until(lambda: serves(running, 2))
    (models / "tile" / "2").rename(models / "withdrawn")

    wait_until(lambda: serves(running, 1))


def test_a_removed_product_leaves_cleanly(running: Running, models: Path, gate: Gate) -> None:
    gate.shut()
    with ThreadPoolExecutor(1) as caller:
        last = caller.submit(inspect, running)
        gate.wait_for_batch()
        shutil.rmtree(models / "tile")
        wait_until(lambda: versions(running).get(1, {}).get("state") == "DRAINING")
        assert inspect(running).status_code == 503
        assert inspect(running, "&version=1").status_code == 404
        assert running.sample("drd_queue_depth", product="tile") == 1  # the last one still waits
        make_bundle(models, "bolt")
        wait_until(lambda: httpx.get(f"{running.url}/health/ready?product=bolt").status_code == 200)
        assert httpx.get(f"{running.url}/health/ready").status_code == 200
        assert httpx.get(f"{running.url}/health/ready?product=tile").status_code == 503
        shutil.rmtree(models / "bolt")
        gate.open()
        assert last.result().json()["verdict"] == "NG"

    wait_until(lambda: inspect(running).status_code == 404)
    assert len(gate.closed) >= 1
    wait_until(lambda: httpx.get(f"{running.url}/health/ready").status_code == 503)
    metrics = httpx.get(f"{running.url}/metrics").text
    assert 'drd_product_state{product="tile"' not in metrics
    assert 'drd_requests_total{door="http",outcome="ok",product="tile"}' in metrics


def test_what_is_loaded_stays_when_the_models_folder_vanishes(running: Running, models: Path) -> None:
    models.rename(models.with_name("gone"))

    looked = threading.Event()
    for _ in range(10):
        looked.wait(0.02)
        assert serves(running, 1)
    models.with_name("gone").rename(models)
    make_bundle(models)
    wait_until(lambda: serves(running, 2))


def test_a_product_that_cannot_be_read_stays_and_stops_no_other(
    running: Running, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "tile").rename(models / ".away")
    (models / "tile").symlink_to("tile")  # a link to itself: reading it is an OSError
    make_bundle(models, "bolt")

    wait_until(lambda: "bolt" in httpx.get(f"{running.url}/v1/products").text)
    assert serves(running, 1)
    make_bundle(models, "nut")
    wait_until(lambda: "nut" in httpx.get(f"{running.url}/v1/products").text)  # at a later scan
    assert caplog.text.count("tile can't be read") == 1


def test_a_file_with_an_odd_name_is_shown(running: Running, models: Path) -> None:
    """Bytes that are no UTF-8, as a share of another system may have them, are in no JSON."""
    odd = make_bundle(models.parent / "elsewhere", "bolt")
    Path(os.fsdecode(os.fsencode(odd) + b"/caf\xe9.txt")).touch()
    odd.parent.rename(models / "bolt")
    url = f"{running.url}/v1/products"
    wait_until(lambda: "FAILED" in httpx.get(url).text)

    (version,) = httpx.get(f"{url}/bolt").json()["versions"]
    assert r"caf\udce9.txt" in version["reason"]


def test_a_bundle_of_another_product_or_version_is_refused(running: Running, models: Path) -> None:
    shutil.copytree(models / "tile" / "1", models / "bolt" / "7")
    url = f"{running.url}/v1/products/bolt"
    wait_until(lambda: httpx.get(url).json().get("state") == "FAILED")

    assert "the manifest says tile version 1" in httpx.get(url).json()["versions"][0]["reason"]


def test_swaps_under_load_lose_nothing_and_inspect_nothing_twice(
    running: Running, models: Path, gate: Gate
) -> None:
    """Nor is an answer of one version given with the number of another."""
    ended, counts = threading.Event(), [Counter[int]() for _ in range(4)]

    def caller(answered: Counter[int]) -> None:
        with httpx.Client(base_url=running.url, timeout=20) as http:
            while not ended.is_set():
                level = 1 + answered.total() % 12
                response = http.post("/v1/inspect?product=tile&include=", content=plain(level))
                assert response.status_code == 200, response.text
                version = response.json()["version"]
                assert response.json()["raw_score"] == pytest.approx(score_of(level, version), abs=1e-4)
                answered[version] += 1

    def has_answered(version: int) -> bool:
        return any(one.done() for one in calling) or any(answered[version] for answered in counts)

    with ThreadPoolExecutor(len(counts)) as callers:
        calling = [callers.submit(caller, answered) for answered in counts]
        try:
            for version in range(2, 32):
                make_version(models, version)
                wait_until(partial(has_answered, version))
                shutil.rmtree(models / "tile" / str(version - 1))
        finally:
            ended.set()
        for one in calling:
            one.result()

    inspected = partial(running.sample, "drd_requests_total", product="tile", door="http", outcome="ok")
    wait_until(lambda: inspected() == sum(answered.total() for answered in counts))
    wait_until(lambda: list(versions(running)) == [31])
    assert len(gate.closed) == 30
