"""What can be said of the files themselves: no cluster, no builder needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.deploy.container import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "kubernetes/components/monitoring/rules.yaml"


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/bundle.Dockerfile"])
def test_hadolint_finds_nothing(name: str) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, REPOSITORY / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_of_the_service_say_the_same() -> None:
    cpu, gpu = _stage("service"), _stage("service-gpu")
    facts = r"^(?:ENV|EXPOSE|USER|ENTRYPOINT|    CMD) .*$"
    assert re.findall(facts, cpu, re.M) == re.findall(facts, gpu, re.M)


def test_the_image_names_settings_there_are() -> None:
    given = dict(re.findall(r"(DRD_\w+)=(\S+)", _stage("service")))
    assert given.keys() <= {f"DRD_{name.upper()}" for name in Settings.model_fields}
    ports = {address.rpartition(":")[2] for address in given.values() if ":" in address}
    (exposed,) = re.findall(r"^EXPOSE (.*)$", _stage("service"), re.M)
    assert set(exposed.split()) == ports


def _stage(name: str) -> str:
    stages = re.split(r"^(?=FROM )", (REPOSITORY / "Dockerfile").read_text(), flags=re.M)
    (stage,) = [stage for stage in stages if stage.partition("\n")[0].endswith(f" AS {name}")]
    return stage


def test_every_base_image_is_pinned() -> None:
    images = re.findall(r"^ARG \w+_IMAGE=(\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.M)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    images += [service["image"] for service in compose if "build" not in service]
    assert len(images) >= 4
    assert all(re.fullmatch(r"\S+:v?\d+\.\d+\.\d+\S*", image) for image in images)


def test_prometheus_in_a_cluster_has_the_rules_of_prometheus_elsewhere() -> None:
    (rules,) = (DEPLOY / "prometheus/rules").glob("*.yml")
    assert yaml.safe_load(RULES.read_text())["spec"] == yaml.safe_load(rules.read_text()), "run: make rules"


def test_compose_mounts_what_there_is_and_names_settings_there_are() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("${") or not source.startswith(".") or (DEPLOY / source).exists(), source
    given = services["service"]["environment"]
    assert given.keys() <= {f"DRD_{name.upper()}" for name in Settings.model_fields}


def test_compose_publishes_every_door_to_this_machine_only_and_limits_every_log() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ports = [port.split(":") for service in services.values() for port in service["ports"]]
    assert {address for address, _, _ in ports} == {"127.0.0.1"}
    assert len({port for _, port, _ in ports}) == len(ports)
    (exposed,) = re.findall(r"^EXPOSE (.*)$", _stage("service"), re.M)
    assert [port.split(":")[2] for port in services["service"]["ports"]] == exposed.split()
    assert all(service["logging"]["options"]["max-size"] for service in services.values())


def test_no_registry_s_address_is_written_down() -> None:
    for path in [REPOSITORY / "Dockerfile", *DEPLOY.rglob("*")]:
        if path.is_file() and path.suffix != ".pyc":  # which the gateways leave beside what they import
            assert not re.search(r"index-url|trusted-host|https?://[\w.-]*(pypi|debian)", path.read_text()), (
                path
            )


def test_the_dashboard_is_the_one_grafana_elsewhere_has() -> None:
    made = yaml.safe_load((DEPLOY / "grafana/kustomization.yaml").read_text())["configMapGenerator"][0]
    (file,) = made["files"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/drd.yml").read_text())["providers"][
        0
    ]
    mounted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    folders = {target: DEPLOY / source for source, target, *_ in (mount.split(":") for mount in mounted)}
    assert (DEPLOY / "grafana" / file).parent.samefile(folders[provider["options"]["path"]])
    assert json.loads((DEPLOY / "grafana" / file).read_text())["title"]
