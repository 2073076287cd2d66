"""The scan of the models folder."""

from pathlib import Path

import pytest

from export.bundle import MAX_VERSION
from service.folder import scan
from tests.service.folders import make_unreadable


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


@pytest.mark.parametrize("name", [".export-1", "two words", "x" * 65, "unknown"])
def test_other_folders_are_not_products(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "1").mkdir(parents=True)
    assert scan(tmp_path) == {}


def test_a_file_that_vanishes_during_the_scan_is_left_out(tmp_path: Path) -> None:
    """One of these files belongs to the handle that lists them, and is gone when it is looked at."""
    (tmp_path / "tile").mkdir()
    (tmp_path / "tile" / "1").symlink_to("/proc/self/fdinfo")
    versions = scan(tmp_path)["tile"]
    assert isinstance(versions, dict)
    assert not isinstance(versions[1], str)
    assert {Path(name).name for name, *_ in versions[1]} >= {"0", "1", "2"}


def test_a_version_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    for version in "12":
        (tmp_path / "tile" / version).mkdir(parents=True)
    make_unreadable(tmp_path / "tile" / "1")
    versions = scan(tmp_path)["tile"]
    assert isinstance(versions, dict)
    assert "File name too long" in str(versions[1])
    assert versions[2] == ()


def test_a_product_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tile").symlink_to("tile")
    (tmp_path / "bolt" / "1").mkdir(parents=True)
    found = scan(tmp_path)
    assert "Too many levels of symbolic links" in str(found["tile"])
    assert found["bolt"] == {1: ()}


def test_links_to_nothing_are_no_versions(tmp_path: Path) -> None:
    (tmp_path / "tile" / "1").mkdir(parents=True)
    (tmp_path / "tile" / "2").symlink_to("/nowhere")
    (tmp_path / "tile" / "3").symlink_to("3")
    assert scan(tmp_path) == {"tile": {1: ()}}
