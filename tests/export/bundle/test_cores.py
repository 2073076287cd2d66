from pathlib import Path

import pytest

from export.bundle.engines.cores import cores_allowed


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("400000 100000", 4), ("150000 100000", 2), ("20000 100000", 1), ("max 100000", None), ("", None)],
)
def test_a_container_s_limit_is_known(tmp_path: Path, limit: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores_allowed(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", None)])
def test_so_is_the_older_kind(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cores_allowed(tmp_path) == cores


def test_where_there_is_no_limit_there_is_none(tmp_path: Path) -> None:
    assert cores_allowed(tmp_path) is None
