"""Every manifest there is: valid, whole, and at one with the code it runs."""

import json
import os
import re
import textwrap
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from string import Template
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

from export.bundle.engines.specs import spec_of
from export.cli import new_parser as export_parser
from service.metrics import Metrics
from service.settings import Settings
from tests.bundles import make_bundle
from tests.deploy.container import REPOSITORY
from tests.deploy.manifests import (
    JOBS,
    KUBERNETES,
    SERVICES,
    Manifest,
    containers,
    environment,
    metric_names,
    of_kind,
    one,
    pods,
    render,
)
from tests.e2e.serving import serving

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

CLUSTERS = ("1.31", "1.35")
"""The oldest and the newest Kubernetes these manifests are for."""
BY_ITSELF = {"drd-access", "drd-sign", "drd-tls"}
"""Secrets that deploy/README.md says how to make."""
README, RUNBOOK = REPOSITORY / "deploy/README.md", REPOSITORY / "deploy/runbook.md"
OPTIONS = ("keda", "tls", "load-balancer", "bundle-image", "archive")


@pytest.fixture(scope="module")
def rendered(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """What everything becomes; also the CPU overlay with each option a reader may choose."""
    everything = {name: render(kubectl, KUBERNETES / name) for name in (*SERVICES, *JOBS)}
    for option in OPTIONS:
        components = [option] if option == "keda" else ["hpa", option]
        everything[option] = render(kubectl, _overlay(tmp_path_factory.mktemp(option), "base", components))
    signed = _overlay(tmp_path_factory.mktemp("sign"), "export/gpu-l4", ["sign"])
    everything["export/signed"] = render(kubectl, signed)
    everything["kserve"] = list(yaml.safe_load_all((KUBERNETES / "kserve/runtime.yaml").read_text()))
    return everything


def _overlay(folder: Path, resource: str, components: list[str]) -> Path:
    here = os.path.relpath(KUBERNETES, folder)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "drd",
        "resources": [f"{here}/{resource}"],
        "components": [f"{here}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def _of(document: Path, beginning: str, folder: Path) -> str:
    """The block of `document` that begins so, for an overlay in `folder`."""
    (block,) = re.findall(rf"^    {beginning}.*\n(?:    .*\n)+", document.read_text(), re.M)
    block = block.replace("PATH", os.path.relpath(REPOSITORY, folder)).replace("REGISTRY", "registry.local")
    return textwrap.dedent(block)


@pytest.mark.parametrize(
    ("overlay", "image"),
    [("cpu", "service")] + [(f"gpu-{gpu}", "service-gpu") for gpu in ("l4", "t4", "mig")],
)
def test_the_overlay_of_the_readme_is_one(overlay: str, image: str, kubectl: Path, tmp_path: Path) -> None:
    block = _of(README, "# kustomization.yaml; PATH", tmp_path) + _of(README, "patches:", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(block.replace("overlays/cpu", f"overlays/{overlay}"))
    manifests = render(kubectl, tmp_path)
    ((_, pod),) = pods(manifests)
    assert pod["containers"][0]["image"] == f"registry.local/drd-inspect/{image}:0.1.0"
    assert environment(manifests, pod["containers"][0])["DRD_TAKT_MS"] == "120"
    budget, _, rate = one(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert budget == {"record": "drd:error_budget", "expr": "vector(0.002)"}
    assert rate == {"record": "drd:line_rate", "labels": {"product": "gasket"}, "expr": "vector(12)"}


def test_the_export_of_the_readme_is_one(kubectl: Path, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(_of(README, "# kustomization.yaml of the export", tmp_path))
    manifests = render(kubectl, tmp_path)
    ((_, pod),) = pods(manifests)
    assert pod["containers"][0]["image"] == "registry.local/drd-inspect/export:0.1.0"
    assert environment(manifests, pod["containers"][0])["PRODUCT"] == "gasket"


def test_the_delivery_of_the_readme_is_one(kubectl: Path, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        _of(README, "# kustomization.yaml of the delivery", tmp_path)
    )
    ((_, pod),) = pods(render(kubectl, tmp_path))
    assert pod["containers"][0]["image"] == "registry.local/gasket:8"


def test_the_rollback_of_the_runbook_is_one_and_can_be_undone(kubectl: Path, tmp_path: Path) -> None:
    moves = []
    for beginnings in (["# kustomization.yaml"], ["# kustomization.yaml", "patches:"]):
        block = "".join(_of(RUNBOOK, beginning, tmp_path) for beginning in beginnings)
        (tmp_path / "kustomization.yaml").write_text(block)
        manifests = render(kubectl, tmp_path)
        ((_, pod),) = pods(manifests)
        assert pod["containers"][0]["image"] == "registry.local/drd-inspect/service:0.1.0"
        assert environment(manifests, pod["containers"][0]) == {"PRODUCT": "gasket", "VERSION": "8"}
        moves.append(pod["containers"][0]["command"][-2:])
    assert moves[0] == ["/models/$(PRODUCT)/$(VERSION)", "/models/.withdrawn-$(PRODUCT)-$(VERSION)"]
    assert moves[1] == moves[0][::-1]


@pytest.fixture(scope="module", params=(*SERVICES, *OPTIONS))
def service(request: pytest.FixtureRequest, rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return rendered[request.param]


@pytest.fixture
def container(service: list[Manifest]) -> Manifest:
    containers: list[Manifest] = one(service, "Deployment")["spec"]["template"]["spec"]["containers"]
    (container,) = containers
    return container


@pytest.fixture
def settings(service: list[Manifest], container: Manifest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the service makes of its environment."""
    for name, value in environment(service, container).items():
        monkeypatch.setenv(name, value)
    return Settings()


def every(rendered: dict[str, list[Manifest]]) -> Iterator[tuple[str, Manifest]]:
    return ((name, manifest) for name, manifests in rendered.items() for manifest in manifests)


def test_the_api_server_would_take_them(rendered: dict[str, list[Manifest]]) -> None:
    for name, manifest in every(rendered):
        if (schema := _schema(manifest["kind"])) is not None:
            jsonschema.validate(manifest["spec"], schema)
        else:
            for version in CLUSTERS:
                kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["kind"] in _CLUSTER_WIDE or manifest["metadata"].get("namespace") == "drd", name


_CLUSTER_WIDE = {"Namespace", "ClusterServingRuntime", "InferenceService"}


def _schema(kind: str) -> Any:
    path = Path(__file__).parent / "schemas" / f"{kind}.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_the_serving_runtime_s_containers_are_containers(rendered: dict[str, list[Manifest]]) -> None:
    spec = one(rendered["kserve"], "ClusterServingRuntime")["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(manifest, CLUSTERS[-1], strict=True)


def test_pod_security_restricted_admits_every_pod(rendered: dict[str, list[Manifest]]) -> None:
    for manifests in rendered.values():
        for name, pod in pods(manifests):
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
            for volume in pod["volumes"]:
                assert volume.keys() - {"name"} <= _VOLUMES, (name, volume)
            for container in containers(pod):
                security = pod.get("securityContext", {}) | container["securityContext"]
                assert security["runAsNonRoot"] is True
                assert security["runAsUser"] == 10001
                assert security["seccompProfile"] == {"type": "RuntimeDefault"}
                assert security["allowPrivilegeEscalation"] is False
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert security["readOnlyRootFilesystem"] is True  # our own rule, and the next two
                assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
                assert not any("hostPort" in port for port in container.get("ports", []))
            assert manifests[0]["kind"] == "ClusterServingRuntime" or not pod["automountServiceAccountToken"]


_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


def test_what_is_referred_to_is_there(rendered: dict[str, list[Manifest]]) -> None:
    claims = {m["metadata"]["name"] for _, m in every(rendered) if m["kind"] == "PersistentVolumeClaim"}
    for manifests in rendered.values():
        maps = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")}
        for name, pod in pods(manifests):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for volume in volumes.values():
                assert volume.get("persistentVolumeClaim", {}).get("claimName", "drd-models") in claims
                assert volume.get("secret", {}).get("secretName", "drd-tls") in BY_ITSELF
                assert volume.get("configMap", {}).get("name") in {None, *maps}, name
            for container in containers(pod):
                mounted = {mount["name"] for mount in container["volumeMounts"]}
                assert mounted <= volumes.keys()
                for source in container.get("envFrom", []):
                    assert source["configMapRef"]["name"] in maps


def test_the_service_starts_with_its_environment(settings: Settings, container: Manifest) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.admin is not None
    doors = {"http": settings.http[0], "grpc": settings.grpc[0], "admin": settings.admin}
    assert ports == {name: address.port for name, address in doors.items()}
    assert settings.tokens is not None


def test_no_variable_is_misspelt(rendered: dict[str, list[Manifest]]) -> None:
    known = {f"DRD_{name.upper()}" for name in Settings.model_fields}
    for manifests in rendered.values():
        for _, pod in pods(manifests):
            for container in containers(pod):
                given = {name for name in environment(manifests, container) if name.startswith("DRD_")}
                assert given <= known
                mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
                for name in given & {"DRD_TOKENS", "DRD_TLS_CERTIFICATE", "DRD_TLS_KEY"}:
                    folder = str(Path(environment(manifests, container)[name]).parent)
                    assert mounts[folder]["readOnly"]


def test_the_end_has_time_for_all_its_stages(
    service: list[Manifest], container: Manifest, settings: Settings
) -> None:
    pod = one(service, "Deployment")["spec"]["template"]["spec"]
    withdrawn = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = withdrawn + settings.lame_duck_seconds + settings.drain_seconds
    assert pod["terminationGracePeriodSeconds"] >= longest + 15
    # A deadline is never longer than the drain, nor a connection's grace than the pod's.
    assert settings.default_deadline_ms / 1000 < settings.drain_seconds


def test_probes_ask_what_the_service_answers(container: Manifest, tmp_path: Path) -> None:
    asked = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    make_bundle(tmp_path, "tile")
    with serving(tmp_path, admin="127.0.0.1:0") as running:
        for probe in asked:
            assert probe["httpGet"]["port"] == "admin"  # the doors' connections may all be taken
            url = f"http://{running.service.admin[0]}{probe['httpGet']['path']}"
            assert httpx.get(url, timeout=60).status_code == 200


def test_a_hanging_engine_and_a_long_start_are_told_apart(
    container: Manifest, service: list[Manifest]
) -> None:
    """Preparing engines may take minutes: that must cost readiness only, never a restart."""
    for kind in ("startup", "liveness"):
        assert container[f"{kind}Probe"]["httpGet"]["path"] == "/health/live"
    assert one(service, "Deployment")["spec"]["progressDeadlineSeconds"] >= 600


def test_services_lead_to_the_doors(service: list[Manifest], container: Manifest) -> None:
    deployment = one(service, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    names = {port["name"] for port in container["ports"]}
    for manifest in of_kind(service, "Service"):
        assert manifest["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= names
    budget = one(service, "PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    policy = one(service, "NetworkPolicy", "drd-inspect")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    headless = one(service, "Service", "drd-inspect-headless")["spec"]
    assert headless["clusterIP"] == "None"


def test_prometheus_finds_every_replica_once(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["overlays/cpu"]
    (endpoint,) = (monitor := one(manifests, "ServiceMonitor"))["spec"]["endpoints"]
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    scraped = [
        service["metadata"]["name"]
        for service in of_kind(manifests, "Service")
        if labels <= service["metadata"]["labels"].items()
        for port in service["spec"]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert scraped == ["drd-inspect-headless"]


def test_scaling_asks_for_metrics_there_are(rendered: dict[str, list[Manifest]]) -> None:
    adapter = yaml.safe_load((KUBERNETES / "components/hpa/prometheus-adapter.yaml").read_text())
    rules = adapter["rules"]["custom"]
    scaled_object = one(rendered["keda"], "ScaledObject")["spec"]
    queries = [rule["seriesQuery"] + rule["metricsQuery"] for rule in rules]
    queries += [trigger["metadata"]["query"] for trigger in scaled_object["triggers"]]
    known = {
        family.name + suffix
        for family in Metrics(takt_seconds=0.2).registry.collect()
        for suffix in ("", "_total", "_sum", "_count", "_bucket")
    }
    assert metric_names(" ".join(queries)) <= known
    autoscaler = one(rendered["overlays/cpu"], "HorizontalPodAutoscaler")["spec"]
    asked = {metric["pods"]["metric"]["name"] for metric in autoscaler["metrics"]}
    assert asked == {rule["name"]["as"] for rule in rules}
    targets = {autoscaler["scaleTargetRef"]["name"], scaled_object["scaleTargetRef"]["name"]}
    assert targets == {one(rendered["overlays/cpu"], "Deployment")["metadata"]["name"]}
    assert not of_kind(rendered["keda"], "HorizontalPodAutoscaler")


@pytest.mark.parametrize("name", [name for name in (*SERVICES, *JOBS) if "gpu" in name])
def test_a_gpu_overlay_gets_one_gpu_of_its_kind(rendered: dict[str, list[Manifest]], name: str) -> None:
    ((_, pod),) = pods(rendered[name])
    (container,) = pod["containers"]
    devices = {key: n for key, n in container["resources"]["limits"].items() if key.startswith("nvidia.com/")}
    assert list(devices.values()) == ["1"]
    assert float(container["resources"]["requests"]["cpu"]) < 4, "a node of 4 vCPU has less to give"
    assert all(
        fnmatch(device, "nvidia.com/mig-*" if "mig" in name else "nvidia.com/gpu") for device in devices
    )
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert any(key.startswith("nvidia.com/") for key in pod["nodeSelector"])
    assert container["image"].partition(":")[0] in {"drd-inspect/service-gpu", "drd-inspect/export"}


def test_engines_asked_for_are_engines_there_are(rendered: dict[str, list[Manifest]]) -> None:
    for name, manifests in rendered.items():
        for config in of_kind(manifests, "ConfigMap"):
            data = config["data"]
            wanted = [data.get("DRD_ENGINE", "auto"), *data.get("ENGINES", "").split(",")]
            for engine in set(wanted) - {"auto", ""}:
                spec_of(engine)
            if name in {"overlays/gpu-t4", "overlays/gpu-mig"} and "DRD_ENGINE" in data:
                assert data["DRD_ENGINE"] == "onnx-cuda-fp16"


def test_the_export_job_is_a_command_line_there_is(rendered: dict[str, list[Manifest]]) -> None:
    for name in rendered:
        if name.startswith("export"):
            ((_, pod),) = pods(rendered[name])
            (container,) = pod["containers"]
            given = environment(rendered[name], container)
            arguments = [
                Template(text.replace("$(", "${").replace(")", "}")).substitute(given)
                for text in container["args"]
            ]
            options = export_parser().parse_args(arguments)
            mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            assert not mounts[str(options.models)]
            assert mounts[f"/{options.checkpoint.parts[1]}"]
            assert (options.key is not None) == (name == "export/signed")
            assert options.key is None or mounts[str(options.key.parent)]


def test_images_are_those_of_this_version(rendered: dict[str, list[Manifest]]) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.M))
    for manifests in rendered.values():
        for _, pod in pods(manifests):
            for container in containers(pod):
                name, _, tag = container["image"].removeprefix("drd-inspect/").partition(":")
                assert name == "bundle" or (name in targets and tag == version)
