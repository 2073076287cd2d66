"""The series that alerts are raised on, as a running service shows them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from service.history import NOT_INSPECTED
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import Gate
from tests.service.images import plain

FROM_THE_START = {
    'drd_requests_total{door="grpc",outcome="failed",product="tile"}',
    'drd_requests_total{door="http",outcome="refused",product="tile"}',
    'drd_verdicts_total{product="tile",verdict="NG"}',
    'drd_rejected_total{product="tile",reason="deadline"}',
    'drd_request_seconds_count{door="http",product="tile"}',
    'drd_stage_seconds_count{product="tile",stage="queue"}',
    'drd_late_total{product="tile"}',
    'drd_deadline_missed_total{product="tile"}',
    'drd_engine_busy_seconds_total{product="tile"}',
}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Whatever it answers is late, and a bright picture has no region that is large enough."""
    make_bundle(tmp_path, "tile", min_area=10**6)
    with serving(tmp_path, takt_ms=0.001) as running:
        yield running


def scrape(running: Running) -> dict[str, float]:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(httpx.get(f"{running.url}/metrics").text)
    return {
        f"{sample.name}{{{_labels(sample)}}}": sample.value
        for family in families
        for sample in family.samples
    }


def _labels(sample: Sample) -> str:
    return ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))


def test_what_rates_are_taken_of_begins_at_zero(running: Running) -> None:
    first = scrape(running)

    assert {name: first[name] for name in FROM_THE_START} == dict.fromkeys(FROM_THE_START, 0)


def test_late_verdicts_reviews_and_the_engines_time_are_counted(running: Running) -> None:
    for level in (40, 200):
        httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(level)).raise_for_status()
    now = scrape(running)

    assert now["drd_takt_seconds{}"] == 1e-6
    assert now['drd_late_total{product="tile"}'] == 2
    assert now['drd_reviews_total{product="tile",reason="small_region"}'] == 1
    assert now['drd_engine_busy_seconds_total{product="tile"}'] == pytest.approx(
        now['drd_stage_seconds_sum{product="tile",stage="infer"}']
    )


def test_late_is_what_the_histograms_edge_at_the_takt_says(models: Path) -> None:
    with serving(models, takt_ms=60_000) as running:
        httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(40)).raise_for_status()
        now = scrape(running)

    assert now['drd_late_total{product="tile"}'] == 0
    assert now['drd_request_seconds_bucket{door="http",le="60.0",product="tile"}'] == 1


def test_a_part_whose_caller_leaves_is_not_inspected_on_the_operator_page(models: Path) -> None:
    gate, frame = Gate(), plain(40)
    head = f"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: {len(frame)}\r\n\r\n"
    with serving(models, gate.start) as running:
        gate.shut()
        url = httpx.URL(running.url)
        with socket.create_connection((url.host, url.port), timeout=30) as caller:
            caller.sendall(head.encode() + frame)
            gate.wait_for_batch()
        counts = running.service.history.counts
        wait_until(lambda: counts == {"tile": {NOT_INSPECTED: 1}})
        gate.open()

        cancelled = {"product": "tile", "door": "http", "outcome": "cancelled"}
        assert running.sample("drd_requests_total", **cancelled) == 1
