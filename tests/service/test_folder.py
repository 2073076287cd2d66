"""The scan of the models folder."""

from pathlib import Path

import pytest

from export.bundle import MAX_VERSION
from service.folder import scan


@pytest.mark.parametrize(
    ("name", "is_version"),
    [
        ("1", True),
        (str(MAX_VERSION), True),
        (str(MAX_VERSION + 1), False),
        ("0", False),
        ("01", False),
        ("1.old", False),
    ],
)
def test_only_version_numbers_are_versions(tmp_path: Path, name: str, is_version: bool) -> None:
    (tmp_path / "tile" / name).mkdir(parents=True)
    assert scan(tmp_path) == ({"tile": {int(name): ()}} if is_version else {})


@pytest.mark.parametrize("name", [".export-1", "two words", "x" * 65])
def test_other_folders_are_not_products(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "1").mkdir(parents=True)
    assert scan(tmp_path) == {}
