"""What stands in deploy/ for Prometheus and Grafana, and the rules with windows many times shorter."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "drd.yml"
UNIT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = DEPLOY / "runbook.md"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "drd.json"
KUBERNETES = DEPLOY / "kubernetes" / "components"

_MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WINDOW = re.compile(r"(?<=[\[: ])(\d+)([smhd])(?=[\]:)\s])")


def shorter(rules: str, times: int) -> str:
    """`rules` with every window, offset and `for` so many times shorter."""
    return _WINDOW.sub(lambda found: f"{int(found[1]) * _MILLISECONDS[found[2]] // times}ms", rules)


def rules_of(path: Path) -> list[dict[str, Any]]:
    """Records and alerts, in their order."""
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules_of(RULES) if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    """Every panel that asks Prometheus for something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def names_in(*paths: Path) -> set[str]:
    """The names of series, as they are scraped, that files speak of."""
    text = "".join(path.read_text() for path in paths)
    return set(re.findall(r"\b(?:drd|process)_[a-z0-9_]+", text)) - set(re.findall(r"\{as: (\w+)\}", text))
