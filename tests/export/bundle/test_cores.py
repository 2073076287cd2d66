from pathlib import Path

import pytest

from export.bundle.engines.cores import cores_allowed


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("400000 100000", 4), ("150000 100000", 2), ("20000 100000", 1), ("max 100000", None), ("", None)],
)
def test_the_limit_of_cgroups_2(tmp_path: Path, limit: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores_allowed(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", None)])
def test_the_limit_of_cgroups_1(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cores_allowed(tmp_path) == cores


def test_no_limit(tmp_path: Path) -> None:
    assert cores_allowed(tmp_path) is None
