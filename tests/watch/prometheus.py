"""A real Prometheus and a real Alertmanager as deploy/ sets them up, but an hour takes a minute."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.e2e.serving import wait_until
from tests.watch.files import DEPLOY, shorter

TIMES = 60
eventually = partial(wait_until, seconds=120, pause=0.1)


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The series there are now."""
        result: list[dict[str, Any]] = self.ask("query", query=promql)["result"]
        return result

    def states(self, alert: str) -> set[str]:
        """The states in which `alert` is now, over all products; empty: it is not raised."""
        return {one["state"] for one in self.ask("alerts")["alerts"] if one["labels"]["alertname"] == alert}

    def seen(self, alert: str, state: str) -> list[float]:
        """The instants at which `alert` was found in `state`."""
        series = self.query(f'ALERTS{{alertname="{alert}", alertstate="{state}"}}[1h]')
        return sorted(float(at) for one in series for at, _ in one["values"])


@contextmanager
def prometheus(folder: Path, scraped: str, told: str) -> Iterator[Prometheus]:
    """Scrapes the address `scraped` and evaluates, both each second; tells the Alertmanager at `told`."""
    shutil.copytree(DEPLOY / "prometheus", folder, dirs_exist_ok=True)
    for rules in (folder / "rules").iterdir():
        rules.write_text(shorter(rules.read_text(), TIMES))
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    _write(folder / "prometheus.yml", config)
    # The labels of a pod, so that what is asked on a cluster can be asked here.
    labels = {"namespace": "drd", "pod": "drd-inspect-0"}
    _write(folder / "targets" / "drd.yml", [{"targets": [scraped], "labels": labels}])
    _write(folder / "alertmanagers.yml", [{"targets": [told]}])
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
    ]
    with _running(command, folder / "log") as address:
        eventually(lambda: "ready to receive web requests" in (folder / "log").read_text())
        yield Prometheus(f"http://{address}")


@contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """Its address; it posts what it has for a receiver of its configuration to `receiver`/NAME."""
    config = yaml.safe_load(shorter((DEPLOY / "prometheus" / "alertmanager.yml").read_text(), TIMES))
    for one in config["receivers"]:
        one["webhook_configs"] = [{"url": f"{receiver}/{one['name']}"}]
    _write(folder / "alertmanager.yml", config)
    command = [
        "prometheus-alertmanager",
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "log") as address:
        yield address


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[str]:
    """The address at which `command` says that it listens."""
    with log.open("w") as written, subprocess.Popen(command, stderr=written) as process:
        try:
            eventually(lambda: 'msg="Listening on"' in log.read_text())
            (address,) = re.findall(r'msg="Listening on" address=(\S+)', log.read_text())
            yield address
        finally:
            process.terminate()


def _write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content))
