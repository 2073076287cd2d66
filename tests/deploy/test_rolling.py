"""Two replicas behind one client, as in a cluster: neither a new bundle nor new replicas cost an answer."""

import itertools
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.bundles import make_bundle
from tests.deploy.manifests import KUBERNETES
from tests.e2e.serving import Process, process, wait_until
from tests.service.images import plain

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PATIENT = {"DRD_LAME_DUCK_SECONDS": "60", "DRD_WATCH_SECONDS": "0.05", "DRD_KEEP_OLD_SECONDS": "1"}
"""A lame duck waits for us, not for a clock."""


@dataclass
class Client:
    """Asks one replica after the other, over REST and gRPC in turn, from two threads; fails if one fails."""

    replicas: tuple[Process, ...]
    """Those that are ready, as a cluster's endpoints are: replaced as a whole."""
    answered: Counter[tuple[Process, int]] = field(default_factory=Counter)
    """By replica and version."""
    rounds: list[int] = field(default_factory=lambda: [0] * 2)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, thread: int) -> None:
        with httpx.Client(timeout=60) as http, ExitStack() as opened:
            stubs = dict[Process, InspectionServiceStub]()
            for turn in itertools.count():
                if self.ended.is_set():
                    return
                replica = self.replicas[turn // 2 % len(self.replicas)]
                level = 1 + turn % 100
                if turn % 2:
                    version, score = _ask_rest(http, replica, level)
                else:
                    if replica not in stubs:
                        channel = opened.enter_context(grpc.insecure_channel(replica.target))
                        stubs[replica] = InspectionServiceStub(channel)
                    version, score = _ask_grpc(stubs[replica], level)
                assert round(255 * score) == level, "a neighbour's answer"
                self.answered[replica, version] += 1
                self.rounds[thread] += 1

    def versions(self) -> dict[Process, set[int]]:
        return {
            replica: {number for known, number in self.answered if known == replica}
            for replica in {replica for replica, _ in list(self.answered)}
        }

    def wait_for_rounds(self, running: list[Future[None]]) -> None:
        """Returns when every thread has asked every replica anew, by both doors, and been answered."""
        goal = [rounds + 1 + 2 * len(self.replicas) for rounds in self.rounds]
        wait_until(
            lambda: (
                any(one.done() for one in running)
                or all(now >= then for now, then in zip(self.rounds, goal, strict=True))
            )
        )


def _ask_rest(http: httpx.Client, replica: Process, level: int) -> tuple[int, float]:
    response = http.post(f"{replica.url}/v1/inspect?product=tile&include=", content=plain(level))
    assert response.status_code == 200, response.text
    return response.json()["version"], response.json()["raw_score"]


def _ask_grpc(stub: InspectionServiceStub, level: int) -> tuple[int, float]:
    request = pb.InspectRequest(image=plain(level), product="tile", include=[""])
    answer = stub.Inspect(request, timeout=60)
    return answer.version, answer.raw_score


@contextmanager
def asking(*replicas: Process) -> Iterator[tuple[Client, list[Future[None]]]]:
    """A client at work; at the end everything it asked must have been answered."""
    client = Client(replicas)
    with ThreadPoolExecutor(len(client.rounds)) as threads:
        running = [threads.submit(client.run, thread) for thread in range(len(client.rounds))]
        try:
            yield client, running
        finally:
            client.ended.set()
        for one in running:
            one.result()


def deliver(source: Path, models: Path) -> str:
    """What the job in a cluster runs."""
    script = KUBERNETES / "deliver/script/deliver.sh"
    done = subprocess.run(["sh", script, source, models], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models"


def test_a_delivered_version_reaches_every_replica_without_a_failed_request(
    models: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "image", version=2)
    with process("--models", models, **PATIENT) as one, process("--models", models, **PATIENT) as two:
        with asking(one, two) as (client, running):
            client.wait_for_rounds(running)
            assert client.versions() == {one: {1}, two: {1}}
            assert deliver(tmp_path / "image", models) == "tile/2 is delivered\n"
            wait_until(lambda: all(2 in versions for versions in client.versions().values()))
            client.wait_for_rounds(running)
        assert client.versions() == {one: {1, 2}, two: {1, 2}}


def test_a_rolling_update_costs_no_request(models: Path) -> None:
    with ExitStack() as replicas:
        old = [replicas.enter_context(process("--models", models, **PATIENT)) for _ in range(2)]
        with asking(*old) as (client, running):
            for leaving in old:
                client.wait_for_rounds(running)
                coming = replicas.enter_context(process("--models", models, **PATIENT))
                wait_until(partial(ready, coming))
                client.replicas = (*client.replicas, coming)
                client.wait_for_rounds(running)
                leaving.popen.send_signal(signal.SIGTERM)
                wait_until(partial(ready, leaving, wanted=False))
                client.wait_for_rounds(running)  # it serves those who have not heard of it yet
                client.replicas = tuple(replica for replica in client.replicas if replica != leaving)
                client.wait_for_rounds(running)
                leaving.popen.send_signal(signal.SIGTERM)  # the endpoint is withdrawn, says the second
                assert leaving.popen.wait(60) == 0
            client.wait_for_rounds(running)
        assert len(client.versions()) == 4


def ready(replica: Process, *, wanted: bool = True) -> bool:
    return (httpx.get(f"{replica.url}/health/ready", timeout=60).status_code == 200) is wanted


def test_a_delivery_changes_nothing_that_is_there(models: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "image", version=2)
    deliver(tmp_path / "image", models)
    (bundle / "manifest.json").write_text("another")

    assert deliver(tmp_path / "image", models) == "tile/2 is there already\n"
    assert (models / "tile/2/manifest.json").read_text() != "another"
    assert sorted(path.name for path in models.iterdir()) == ["tile"]


def test_a_delivery_that_is_ended_leaves_nothing_behind(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "image", version=2)
    copies = tmp_path / "bin/cp"
    copies.parent.mkdir()
    copies.write_text("#!/bin/sh\nkill $PPID\n")  # the signal comes while it copies
    copies.chmod(0o755)
    monkeypatch.setenv("PATH", str(copies.parent), prepend=os.pathsep)
    with pytest.raises(subprocess.CalledProcessError):
        deliver(tmp_path / "image", models)
    assert [path.name for path in models.iterdir()] == ["tile"]
    assert [path.name for path in (models / "tile").iterdir()] == ["1"]


def test_a_withdrawn_version_is_not_delivered_again(models: Path, tmp_path: Path) -> None:
    """The job may be made anew, by whoever keeps a cluster as it is described."""
    make_bundle(tmp_path / "image", version=2)
    deliver(tmp_path / "image", models)
    job = yaml.safe_load((KUBERNETES / "withdraw/job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {"/models": str(models), "$(PRODUCT)": "tile", "$(VERSION)": "2"}
    for name, value in given.items():
        container["command"] = [word.replace(name, value) for word in container["command"]]
    subprocess.run(container["command"], check=True)

    assert deliver(tmp_path / "image", models).startswith("tile/2 was withdrawn")
    assert [path.name for path in (models / "tile").iterdir()] == ["1"]
    assert make_bundle(models).name == "3", "its number is not given to another"
