"""Four times capacity: refused or answered, and as soon as it ends everybody is served again."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bundles import make_bundle
from tests.e2e.serving import Process, process, wait_until
from tests.hostile.watching import taken
from tests.service.images import plain

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SECONDS = 15
MEBIBYTE = 2**20


def test_four_times_capacity_leaves_nothing_behind(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models", "bench")
    image = tmp_path / "frame.jpg"
    image.write_bytes(plain(7, (300, 300), "JPEG"))
    with process("--models", tmp_path / "models", DRD_IDLE_SECONDS="600") as service:
        capacity = load(service, image, 4, "--clients", "8")["200"]["count"] / 4
        depth(service)  # makes the thread for metrics, which stays
        before = taken(service.popen.pid)
        rate = ("--rate", f"{4 * capacity:.0f}", "--deadline-ms", "200")
        statuses = load(service, image, SECONDS, *rate)
        afterwards = [served(service) for _ in range(30)]
        wait_until(lambda: depth(service) == 0)
        after = taken(service.popen.pid)

    assert set(statuses) <= {"0", "200", "429", "503", "504"}  # 0: no connection was free at the door
    assert statuses["200"]["count"] > 0
    assert afterwards == [200] * 30, "refused, though nobody else is there any more"
    assert after.resident < before.resident + 100 * MEBIBYTE
    assert after.threads == before.threads


def load(service: Process, image: Path, seconds: float, *more: str) -> dict[str, Any]:
    """How it was answered, by status."""
    target = service.url.removeprefix("http://")
    command = [sys.executable, "-m", "tests.bench.load", target, str(image), "--seconds", str(seconds), *more]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=200).stdout)
    statuses: dict[str, Any] = report["statuses"]
    return statuses


def served(service: Process) -> int:
    """One frame without a deadline: nothing but a residue of the overload could refuse it."""
    url = f"{service.url}/v1/inspect?product=bench&include="
    return httpx.post(url, content=plain(7), timeout=60).status_code


def depth(service: Process) -> float:
    metrics = httpx.get(f"{service.url}/metrics", timeout=60).text
    (line,) = re.findall(r'^drd_queue_depth{product="bench"} (.*)$', metrics, re.M)
    return float(line)
