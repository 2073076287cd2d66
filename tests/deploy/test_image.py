"""The service's image, built from the Dockerfile and started as a cluster would start it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.access.tokens import make_token
from service.settings import Settings
from tests.bundles import make_bundle
from tests.deploy.container import Builder, Container, started
from tests.e2e.serving import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

SECRET, TOKEN = make_token("line-3", None, None)
ASK = f"""
import sys
from urllib.request import Request, urlopen
url, *files = sys.argv[1:]
picture = open(files[0], "rb").read() if files else None
request = Request(url, picture, {{"Authorization": "Bearer {SECRET}"}})
print(urlopen(request).read().decode())
"""
ASK_GRPC = """
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
channel = grpc.insecure_channel("127.0.0.1:8081")
print(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status)
"""
WRITE = """
import sys
from pathlib import Path
for folder in sys.argv[1:]:
    try:
        Path(folder, "written").write_bytes(b"")
        print(folder)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    folder = tmp_path_factory.mktemp("builder")
    yield Builder(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(builder: Builder) -> str:
    return builder.build("service", builder.base())


@pytest.fixture(scope="module")
def config(builder: Builder, image: str) -> dict[str, Any]:
    return builder.config(image)


@pytest.fixture(scope="module")
def tree(builder: Builder, image: str) -> Iterator[Path]:
    with builder.tree(image) as path:
        yield path


@pytest.fixture(scope="module")
def container(
    tree: Path, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    make_bundle(folder / "models", "tile")
    (folder / "access").mkdir()
    (folder / "access/tokens").write_text(TOKEN.line())
    folder.chmod(0o755)
    volumes = {"/models": folder / "models", "/access": folder / "access"}
    with started(tree, config, folder, volumes, DRD_TOKENS="/access/tokens") as running:
        yield running
        assert running.terminate() == 0


def test_a_picture_is_inspected(container: Container) -> None:
    inspect = "http://127.0.0.1:8080/v1/inspect?product=tile"
    verdicts = [
        json.loads(container.python(ASK, inspect, f"/models/tile/1/golden/{level}.png"))["verdict"]
        for level in (0, 255)
    ]
    assert verdicts == ["OK", "NG"]


def test_every_door_says_that_it_is_healthy(container: Container, config: dict[str, Any]) -> None:
    wait_until(lambda: container.execute(*config["Healthcheck"]["Test"][1:]).returncode == 0)
    assert json.loads(container.python(ASK, "http://127.0.0.1:9090/health/live")) == {"status": "alive"}
    assert container.python(ASK_GRPC) == "1"
    assert "drd_ready 1.0" in container.python(ASK, "http://127.0.0.1:9090/metrics")


def test_it_does_not_start_open_to_anyone_by_accident(container: Container) -> None:
    """The container's own environment, but without the tokens."""
    refused = container.execute("env", "--unset=DRD_TOKENS", "drd-serve")
    assert refused.returncode == 2
    assert "--open-to-anyone" in refused.stderr


def test_the_operator_page_is_in_it(container: Container) -> None:
    assert "<!doctype html>" in container.python(ASK, "http://127.0.0.1:8080/").lower()


def test_it_runs_without_rights_and_writes_to_tmp_only(container: Container) -> None:
    status = container.python("print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    writable = container.python(WRITE, "/", "/opt/drd/bin", "/models", "/home", "/var/tmp", "/tmp")
    assert writable == "/tmp"


def test_it_holds_the_service_and_nothing_that_builds_or_trains(tree: Path) -> None:
    packages = {path.name for path in (tree / "opt/drd/lib/python3.11/site-packages").iterdir()}
    assert {"service", "export", "training", "onnxruntime"} <= packages
    assert packages.isdisjoint({"torch", "timm", "onnx", "pip", "setuptools"})
    assert not (tree / "source").exists()


def test_nothing_of_the_machine_that_built_it_is_in_it(config: dict[str, Any], tree: Path) -> None:
    names = {entry.partition("=")[0] for entry in config["Env"]}
    ours = {name for name in names if name.startswith("DRD_")}
    assert names - ours == {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert ours <= {f"DRD_{name.upper()}" for name in Settings.model_fields}
    assert not any((tree / "etc").glob("pip.conf")) or not (tree / "etc/pip.conf").read_text()
