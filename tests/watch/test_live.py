"""A real service, watched by a real Prometheus, is overloaded and recovers. An hour takes a minute."""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from service.access.tokens import make_token
from service.client import BadInput, Client, Frame, InspectionFailed, Refused
from tests.bundles import make_bundle
from tests.e2e.serving import ANYWHERE, Running, serving
from tests.service.engines import Gate
from tests.service.images import plain
from tests.watch.files import DASHBOARD, KUBERNETES, RULES, RUNBOOK, names_in, panels
from tests.watch.messages import Messages, messages
from tests.watch.prometheus import Prometheus, alertmanager, eventually, prometheus

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

PLACES = 8
"""Frames of a product that may wait."""
FRAMES = (
    Frame(plain(40), "tile"),  # OK
    Frame(plain(200), "tile"),  # NG
    Frame(plain(200), "bolt"),  # REVIEW: there is no region so large
    Frame(b"no picture", "tile"),
)
RAISED = {"DrdRefusals": "working-day", "DrdErrorBudgetBurnsFast": "on-call"}
"""Alerts and whom they reach."""
WITHOUT_DATA = {"GPU memory", "Certificate expires in", "Shift of the last hour's scores"}
"""Panels that stay empty without a GPU, without TLS, and before there was an hour to compare with."""


@dataclass(frozen=True)
class Watch:
    prometheus: Prometheus
    messages: Messages


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """It has seen load at both doors, an overload of `tile`, and its end."""
    models, gate = tmp_path_factory.mktemp("models"), Gate()
    make_bundle(models, "tile")
    make_bundle(models, "bolt", min_area=10**6)
    tokens = tmp_path_factory.mktemp("access") / "tokens"
    secret, token = make_token("line", None, None)
    tokens.write_text(token.line())
    with (
        serving(
            models,
            gate.start,
            admin=ANYWHERE,
            tokens=tokens,
            max_queued_frames=PLACES,
            takt_ms=10_000,  # no verdict is late, however slow this machine
        ) as running,
        messages() as received,
        alertmanager(tmp_path_factory.mktemp("alertmanager"), received.url) as address,
        prometheus(tmp_path_factory.mktemp("prometheus"), str(running.service.admin[0]), address) as watching,
        calling(running, secret, 4, FRAMES),
    ):
        assert httpx.get(f"{running.url}/v1/products").status_code == 401
        eventually(lambda: len(watching.query('drd:requests:rate5m{product=~"tile|bolt"} > 0')) == 2)
        assert not any(watching.states(alert) for alert in RAISED)
        with calling(running, secret, 2 * PLACES, FRAMES[:2]):
            gate.shut()
            try:
                eventually(lambda: told(received, "firing"))
            finally:
                gate.open()
        eventually(lambda: not any(watching.states(alert) for alert in RAISED))
        yield Watch(watching, received)


def told(received: Messages, status: str) -> bool:
    """Whether all alerts have reached whom they concern, in this status."""
    return {(receiver, alert, status) for alert, receiver in RAISED.items()} <= received.alerts


@contextmanager
def calling(running: Running, token: str, callers: int, frames: tuple[Frame, ...]) -> Iterator[None]:
    """So many callers, half of them at each door, each with one frame after the other."""
    ended = Event()

    def call(client: Client) -> None:
        for frame in itertools.cycle(frames):
            if ended.wait(0.05):
                return
            with suppress(Refused, BadInput, InspectionFailed):  # the last: no gate stays shut for ever
                client.inspect(frame)

    with (
        Client(running.url, token=token, retries=0, deadline=120) as rest,
        Client(f"grpc://{running.target}", token=token, retries=0, deadline=120) as rpc,
        ThreadPoolExecutor(callers) as threads,
    ):
        calls = [threads.submit(call, client) for client in (rest, rpc) for _ in range(callers // 2)]
        try:
            yield
        finally:
            ended.set()
        for one in calls:
            one.result()


@pytest.mark.parametrize("alert", RAISED)
def test_an_overload_is_pending_then_firing_then_over(watch: Watch, alert: str) -> None:
    pending, firing = watch.prometheus.seen(alert, "pending"), watch.prometheus.seen(alert, "firing")

    assert pending[0] < firing[0]
    assert watch.prometheus.states(alert) == set()
    raised = watch.prometheus.query(f'ALERTS{{alertname="{alert}"}}[1h]')
    assert {one["metric"]["product"] for one in raised} == {"tile"}


def test_who_was_told_that_it_began_is_told_that_it_is_over(watch: Watch) -> None:
    eventually(lambda: told(watch.messages, "resolved"))


def test_every_series_spoken_of_is_scraped(watch: Watch) -> None:
    there = set(watch.prometheus.ask("label/__name__/values"))
    spoken_of = names_in(RULES, DASHBOARD, RUNBOOK, *KUBERNETES.rglob("*.yaml"))

    assert spoken_of - there == set()


def test_every_rule_can_be_evaluated(watch: Watch) -> None:
    rules = [rule for group in watch.prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_something(watch: Watch, panel: dict[str, Any]) -> None:
    def shown() -> bool:
        return any(watch.prometheus.query(chosen(target["expr"])) for target in panel["targets"])

    if panel["title"] in WITHOUT_DATA:
        assert not shown()
    else:
        eventually(shown)  # a busy machine may have missed the last scrape


def chosen(expression: str) -> str:
    """`expression` as Grafana asks it with everything chosen, and panels repeated for `tile`."""
    expression = expression.replace('="$product"', '="tile"').replace("$__rate_interval", "1m")
    return re.sub(r"\$(product|door|instance)", ".+", expression)


def test_what_replicas_are_scaled_by_has_a_value(watch: Watch) -> None:
    adapter = yaml.safe_load((KUBERNETES / "hpa" / "prometheus-adapter.yaml").read_text())
    keda = yaml.safe_load((KUBERNETES / "keda" / "scaled-object.yaml").read_text())
    queries = [rule["metricsQuery"] for rule in adapter["rules"]["custom"]]
    queries = [query.replace("<<.GroupBy>>", "pod") for query in queries]
    queries = [query.replace("<<.LabelMatchers>>", 'namespace="drd",pod=~"drd-.+"') for query in queries]
    queries += [trigger["metadata"]["query"] for trigger in keda["spec"]["triggers"]]

    def values() -> list[float]:
        series = [one for query in queries for one in watch.prometheus.query(query)]
        return [value for one in series if (value := float(one["value"][1])) >= 0]

    eventually(lambda: len(values()) == len(queries))
