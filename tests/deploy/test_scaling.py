"""What the autoscalers ask Prometheus, asked of a Prometheus: how loaded replicas of known load are."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import KUBERNETES

pytestmark = pytest.mark.system


def counting(per_second: float) -> str:
    return f"0+{15 * per_second}x40"  # a scrape every 15 s, for ten minutes


def series(pod: str, rate: float) -> dict[str, str]:
    """What Prometheus has of a replica that gets `rate` frames per second."""
    here = f'namespace="drd",pod="{pod}",product="tile"'
    return {
        f'drd_stage_seconds_sum{{{here},stage="queue"}}': counting(0.1 * rate),
        f'drd_stage_seconds_count{{{here},stage="queue"}}': counting(rate),
        f'drd_stage_seconds_sum{{{here},stage="infer"}}': counting(9 * rate),
        f'drd_stage_seconds_count{{{here},stage="infer"}}': counting(rate),
        f'drd_request_seconds_bucket{{{here},le="0.1"}}': counting(0),
        f'drd_request_seconds_bucket{{{here},le="0.2"}}': counting(rate),
        f'drd_request_seconds_bucket{{{here},le="+Inf"}}': counting(rate),
        f"drd_request_seconds_count{{{here}}}": counting(rate),
        f'drd_takt_seconds{{namespace="drd",pod="{pod}"}}': "0.2x40",
    }


BUSY_AND_IDLE = series("busy", 10) | series("idle", 0)


def adapter_queries() -> dict[str, str]:
    """The adapter's queries as it completes them for the pods of a namespace."""
    rules = yaml.safe_load((KUBERNETES / "components/hpa/prometheus-adapter.yaml").read_text())["rules"]
    return {
        rule["name"]["as"]: rule["metricsQuery"]
        .replace("<<.LabelMatchers>>", 'namespace="drd",pod=~"busy|idle"')
        .replace("<<.GroupBy>>", "pod")
        for rule in rules["custom"]
    }


def keda_queries() -> dict[str, str]:
    scaled = yaml.safe_load((KUBERNETES / "components/keda/scaled-object.yaml").read_text())
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]}


def test_a_busy_replica_s_load_is_told_from_an_idle_one_s(tmp_path: Path) -> None:
    expected = {"drd_queue_takts": 0.5, "drd_request_takts": 0.975}
    ask(
        tmp_path,
        BUSY_AND_IDLE,
        {
            query: [
                {"labels": '{pod="busy"}', "value": expected[name]},
                {"labels": '{pod="idle"}', "value": 0},
            ]
            for name, query in adapter_queries().items()
        },
    )


def test_keda_asks_for_the_load_of_all_replicas(tmp_path: Path) -> None:
    expected = {"queue": 0.5, "latency": 0.975}
    answers = {query: [{"labels": "{}", "value": expected[name]}] for name, query in keda_queries().items()}
    ask(tmp_path, BUSY_AND_IDLE, answers)


def test_without_traffic_keda_is_told_zero(tmp_path: Path) -> None:
    ask(
        tmp_path,
        series("idle", 0),
        {query: [{"labels": "{}", "value": 0}] for query in keda_queries().values()},
    )


def ask(folder: Path, given: dict[str, str], answers: dict[str, list[dict[str, Any]]]) -> None:
    """Fails unless every query has its answer after five minutes of `given`."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "5m", "exp_samples": samples} for query, samples in answers.items()
        ],
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
