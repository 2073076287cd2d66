"""The service in an environment of its own requirements and nothing else: no torch, no timm, no onnx."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_bundle

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a virtual environment with the service's pinned requirements."""
    folder = tmp_path_factory.mktemp("service")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = f"{folder}/bin/pip install -q --disable-pip-version-check"
    subprocess.run(f"{pip} -r requirements/service.txt", shell=True, cwd=REPOSITORY, check=True)
    subprocess.run(f"{pip} --no-deps .", shell=True, cwd=REPOSITORY, check=True)
    return folder / "bin"


@pytest.fixture
def server(environment: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    make_bundle(tmp_path, "tile")
    addresses = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    process = subprocess.Popen(
        [environment / "drd-serve", "--models", tmp_path, *addresses],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_torch_and_its_kin_are_not_there(environment: Path) -> None:
    listed = subprocess.run(
        [environment / "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert {"onnxruntime", "openvino"} <= names  # the engines that a CPU prefers
    assert names.isdisjoint({"torch", "torchvision", "timm", "onnx", "safetensors", "scikit-learn"})


@pytest.mark.timeout(600)
def test_the_printed_curl_line_works_and_the_end_is_clean(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    line = next(line for line in server.stdout if line.startswith("try"))
    answer = subprocess.run(
        ["bash", "-c", line.removeprefix("try").strip()], capture_output=True, check=True
    )  # as a person would paste it
    verdict = json.loads(answer.stdout)
    assert verdict["product"] == "tile"
    assert verdict["verdict"] in {"OK", "NG", "REVIEW"}
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0
