"""What promtool says of configuration and rules, and the rules' unit tests."""

import subprocess
from pathlib import Path

import pytest

from tests.watch.files import DEPLOY, RULES, UNIT_TESTS, shorter

pytestmark = pytest.mark.system


def promtool(*arguments: str | Path, tool: str = "promtool") -> None:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("check-config", DEPLOY / "prometheus" / "alertmanager.yml", tool="amtool")


def test_the_rules_are_valid_with_shorter_windows_too(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(shorter(RULES.read_text(), 60))

    promtool("check", "rules", RULES, tmp_path / "rules.yml")


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    promtool("test", "rules", path)
