import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from export.bundle.engines.cores import cores_allowed

PRESENT = 8


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(PRESENT)), raising=False)


def allowed(tmp_path: Path, own: str, files: Mapping[str, str]) -> int:
    """Of a process whose control groups are `own`, in a tree of the `files`."""
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return cores_allowed(tmp_path / "tree", tmp_path / "own")


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("1600000 100000", PRESENT),
        ("max 100000", PRESENT),
        ("", PRESENT),
    ],
)
@pytest.mark.parametrize(
    ("own", "folder"),
    [
        ("/", ""),  # a container
        ("/system.slice/drd.service", "system.slice/drd.service/"),
        ("/system.slice/drd.service", "system.slice/"),
        ("/system.slice/docker-4711.scope", ""),  # a container that sees the host's path
        ("/a b:c.slice/drd.service", "a b:c.slice/"),
    ],
)
def test_the_quota_of_cgroups_2(tmp_path: Path, own: str, folder: str, limit: str, cores: int) -> None:
    assert allowed(tmp_path, f"0::{own}\n", {f"{folder}cpu.max": limit}) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", PRESENT)])
@pytest.mark.parametrize("folder", ["", "system.slice/", "system.slice/drd.service/"])
def test_the_quota_of_cgroups_1(tmp_path: Path, folder: str, quota: str, cores: int) -> None:
    group = f"cpu/{folder}"
    files = {f"{group}cpu.cfs_quota_us": quota, f"{group}cpu.cfs_period_us": "100000"}
    own = "9:cpuset:/\n4:cpu,cpuacct:/system.slice/drd.service\n1:name=systemd:/user.slice\n0::/\n"
    assert allowed(tmp_path, own, files) == cores


def test_the_least_of_all_quotas_counts(tmp_path: Path) -> None:
    quotas = {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}
    assert allowed(tmp_path, "0::/a/b\n", quotas) == 2


def test_another_group_s_quota_does_not_count(tmp_path: Path) -> None:
    assert allowed(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000", "b/cpu.max": "100000 100000"}) == PRESENT


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert cores_allowed(tmp_path, tmp_path / "nowhere") == PRESENT
