"""Rules, runbook and dashboard agree with each other."""

import json
import re
from typing import Any

import pytest

from tests.watch.files import DASHBOARD, RULES, RUNBOOK, UNIT_TESTS, alerts, panels, rules_of, shorter

ALERTS = {rule["alert"]: rule for rule in alerts()}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"deploy/runbook.md#{alert['alert'].lower()}"


def test_the_runbook_has_a_section_for_every_alert() -> None:
    sections = re.findall(r"^## (Drd\w+)$", RUNBOOK.read_text(), re.M)

    assert sections == list(ALERTS)


def test_a_unit_test_sees_every_alert_fire() -> None:
    expected = "".join(path.read_text() for path in UNIT_TESTS)

    assert set(re.findall(r"labels: '\{alertname=\"(\w+)\"", expected)) == set(ALERTS)


def test_records_that_are_used_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules_of(RULES) if "record" in rule}
    used = set(re.findall(r"\bdrd:[a-z0-9_:]+", RULES.read_text() + DASHBOARD.read_text()))

    assert used == recorded


def test_windows_can_be_shortened() -> None:
    text = "expr: rate(a_rate5m[5m] offset 1h) + sum_over_time(b[7d:1h])\nfor: 2m\n"

    assert shorter(text, 60) == (
        "expr: rate(a_rate5m[5000ms] offset 60000ms) + sum_over_time(b[10080000ms:60000ms])\nfor: 2000ms\n"
    )


def test_panels_fill_the_dashboard_and_never_overlap() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert all(x < 24 for x, _ in taken)
    assert len({panel["id"] for panel in everything}) == len(everything)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_and_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
