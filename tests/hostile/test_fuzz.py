"""The fuzz targets run, and find nothing within a few seconds; `make fuzz` is for longer."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.mark.skipif(
    sys.version_info >= (3, 14) or platform.machine() != "x86_64", reason="there is no atheris for it"
)
@pytest.mark.parametrize("target", ["images", "manifests"])
def test_a_few_seconds_find_nothing(target: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.hostile.fuzz",
        target,
        "--minutes",
        "0.1",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
