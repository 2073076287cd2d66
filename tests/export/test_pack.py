"""Bundles appear atomically."""

import signal
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from export.bundle import MAX_VERSION, Bundle
from export.bundle.signature import SigningKey
from export.pack import VersionTakenError, next_version
from tests.bundles import make_bundle


def test_versions_count_up_and_other_names_are_ignored(tmp_path: Path) -> None:
    assert make_bundle(tmp_path).name == "1"
    (tmp_path / "tile" / "backup").mkdir()
    (tmp_path / "tile" / "10.old").mkdir()
    assert make_bundle(tmp_path, version=9).name == "9"
    assert make_bundle(tmp_path).name == "10"
    (tmp_path / "tile" / str(MAX_VERSION + 1)).mkdir()
    assert make_bundle(tmp_path).name == "11"


def test_no_version_follows_the_highest(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=MAX_VERSION)
    with pytest.raises(VersionTakenError, match="the highest possible one"):
        make_bundle(tmp_path)


def test_a_version_is_never_replaced(tmp_path: Path) -> None:
    before = Bundle.open(make_bundle(tmp_path, version=3)).digest
    with pytest.raises(VersionTakenError, match="tile has a version 3 already"):
        make_bundle(tmp_path, version=3, min_area=5)
    assert Bundle.open(tmp_path / "tile" / "3").digest == before


def test_a_withdrawn_version_gives_its_number_to_no_other_bundle(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=7).rename(tmp_path / ".withdrawn-tile-7")
    (tmp_path / ".withdrawn-tile-large-12").mkdir()  # of another product

    with pytest.raises(VersionTakenError, match="tile had a version 7, which was withdrawn"):
        make_bundle(tmp_path, version=7)
    assert make_bundle(tmp_path).name == "8"


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    key = Mock(spec=SigningKey, sign=Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_bundle(tmp_path / "models", key=key)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_killed_export_leaves_nothing_that_looks_like_a_product(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom export.pack import staging_folder\n"
        "with staging_folder(Path(sys.argv[1])) as root:\n"
        "    (root / 'model.onnx').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "models")]
    done = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "models").iterdir()
    assert left.name.startswith(".")  # a product name cannot
    assert make_bundle(tmp_path / "models").name == "1"


def test_an_export_whose_version_was_taken_meanwhile_uses_the_next(tmp_path: Path) -> None:
    """At the last moment: when the bundle is signed."""
    models = tmp_path / "models"
    signed = list[Path]()

    def sign(root: Path) -> None:
        if not signed:
            make_bundle(models)
        signed.append(root)

    bundle = make_bundle(models, key=Mock(spec=SigningKey, sign=sign))
    assert len(signed) == 2
    assert bundle == models / "tile" / "2"
    assert Bundle.open(models / "tile" / "1").manifest.version == 1
    assert Bundle.open(bundle).manifest.version == 2


def test_an_export_whose_version_is_taken_as_soon_as_it_is_chosen_uses_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outrun(product: Path) -> int:
        chosen = next_version(product)
        monkeypatch.undo()
        make_bundle(tmp_path)
        return chosen

    monkeypatch.setattr("export.pack.next_version", outrun)
    assert make_bundle(tmp_path).name == "2"


def test_another_user_can_read_the_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (bundle, bundle / "golden")}
    reference = tmp_path / "reference"
    reference.mkdir()
    assert modes == {stat.S_IMODE(reference.stat().st_mode)}
