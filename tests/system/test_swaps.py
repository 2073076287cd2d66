"""Many swaps of a bundle under load: no answer lost, doubled or half loaded, and the memory comes back."""

import asyncio
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.app import Service, open_service
from service.settings import Settings
from tests.bundles import make_version, score_of
from tests.e2e.serving import Process, process, wait_until
from tests.service.images import plain

pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]

SWAPS, SECONDS_BETWEEN = 30, 2.0


@dataclass
class Caller:
    """Posts one frame after the other until told to end."""

    name: str
    versions: Counter[int] = field(default_factory=Counter)
    sent: list[str] = field(default_factory=list)

    def run(self, url: str, ended: threading.Event) -> None:
        with httpx.Client(base_url=url, timeout=20) as http:
            while not ended.is_set():
                self.sent.append(f"{self.name}-{len(self.sent)}")
                self._ask(http, self.sent[-1], level=1 + len(self.sent) % 100)

    def _ask(self, http: httpx.Client, request_id: str, level: int) -> None:
        headers = {"X-Request-Id": request_id}
        response = http.post("/v1/inspect?product=tile&include=", content=plain(level), headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["request_id"] == request_id
        whole = score_of(level, answer["version"])
        assert answer["raw_score"] == pytest.approx(whole, abs=1e-4), "an answer of another version's model"
        self.versions[answer["version"]] += 1


def test_a_swap_every_two_seconds_for_a_minute_under_load(tmp_path: Path) -> None:
    models, ended = tmp_path / "models", threading.Event()
    callers = [Caller(str(number)) for number in range(4)]
    make_version(models, 1)
    environment = {"DRD_WATCH_SECONDS": "0.2", "DRD_KEEP_OLD_SECONDS": "1", "DRD_LAME_DUCK_SECONDS": "0"}
    with process("--models", models, **environment) as service, ThreadPoolExecutor(4) as threads:
        running = [threads.submit(caller.run, service.url, ended) for caller in callers]
        try:
            swap(models, service)
        finally:
            ended.set()
        for one in running:
            one.result()
        inspected = [line["request_id"] for line in service.log() if line.get("outcome") == "ok"]

    assert sorted(inspected) == sorted(name for caller in callers for name in caller.sent)
    answered = sum((caller.versions for caller in callers), Counter())
    assert sum(answered.values()) == len(inspected)
    assert set(answered) == set(range(1, SWAPS + 2))


def swap(models: Path, service: Process) -> None:
    """A new version every two seconds; the one before leaves the folder when the new one serves."""
    pause = threading.Event()
    for version in range(2, SWAPS + 2):
        pause.wait(SECONDS_BETWEEN)
        make_version(models, version)
        wait_until(partial(serves, service, version))
        shutil.rmtree(models / "tile" / str(version - 1))
    pause.wait(SECONDS_BETWEEN)


def serves(service: Process, version: int) -> bool:
    return bool(httpx.get(f"{service.url}/v1/products/tile", timeout=20).json()["version"] == version)


def test_memory_after_200_swaps_is_that_after_20(tmp_path: Path) -> None:
    """Only swaps, one after the other: the folder is looked at when a test says so."""
    sizes = asyncio.run(swap_and_weigh(tmp_path))

    assert sizes[200] < 1.05 * sizes[20], sizes


async def swap_and_weigh(models: Path) -> dict[int, int]:
    """Resident bytes after so many swaps."""
    settings = Settings(models=models, http=(), grpc=(), watch_seconds=3600, keep_old_seconds=0)
    make_version(models, 1)
    async with open_service(settings) as service:
        await service.load()
        sizes = dict[int, int]()
        for swaps in range(1, 201):
            make_version(models, swaps + 1)
            await service.inspector.catalog.refresh()
            await only_version_left(service)
            shutil.rmtree(models / "tile" / str(swaps))
            sizes[swaps] = resident_bytes()
        service.end_soon()
    return sizes


async def only_version_left(service: Service) -> None:
    while len(service.inspector.catalog.versions()) > 1:  # noqa: ASYNC110  # it frees in a thread
        await asyncio.sleep(0.005)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
