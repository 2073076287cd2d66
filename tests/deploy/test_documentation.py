"""What the documents name is there: settings and their defaults, options of commands, files and headings."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from service.settings import MEBIBYTE, Settings
from tests.deploy.container import REPOSITORY

DOCUMENTS = [
    REPOSITORY / name
    for name in (
        "README.md",
        "SECURITY.md",
        "deploy/README.md",
        "deploy/examples/README.md",
        "deploy/runbook.md",
        "docs/engines.md",
        "docs/log.md",
    )
]
COMMANDS = ("drd-train", "drd-export", "drd-evaluate", "drd-serve", "drd-camera")
ELSEWHERE = {"DRD_NAME", "DRD_ACCESS"}
"""Names that are no settings of drd-serve."""
UNITS = {"": 1, "s": 1, "M": 10**6, "MiB": MEBIBYTE, "GiB": 1024 * MEBIBYTE}

named = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)


@named
def test_settings_exist(document: Path) -> None:
    known = {f"DRD_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bDRD_[A-Z_]+\b", document.read_text())) <= known | ELSEWHERE


def test_the_readme_s_defaults_are_the_settings_own() -> None:
    settings = Settings(models=Path())
    rows = re.findall(r"^\| (`DRD_.*?) \| (.*?) \|", (REPOSITORY / "README.md").read_text(), re.M)
    assert len(rows) > 5
    for names, defaults in rows:
        if "cores" in defaults:
            continue
        for name, default in zip(re.findall(r"DRD_(\w+)", names), defaults.split(", "), strict=True):
            number, _, unit = default.partition(" ")
            assert getattr(settings, name.lower()) == float(number) * UNITS[unit], name


@pytest.mark.parametrize("command", COMMANDS)
def test_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = entry_points(group="console_scripts", name=command)
    with pytest.raises(SystemExit, match="0"):
        script.load()(["--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for document in DOCUMENTS[:-1]:  # the log names what there was
        text = document.read_text().replace("\\\n", " ")
        for used in re.findall(rf"(?:^ +|`){command} (?!token)([^`#\n]*)", text, re.M):
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", used)) <= known, (document.name, used)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_module_of_a_command_runs_as_well(command: str) -> None:
    (script,) = entry_points(group="console_scripts", name=command)
    ended = subprocess.run(
        [sys.executable, "-m", script.module, "--help"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split()[:2]) == (0, ["usage:", command])


@named
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match("[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


def _headings(document: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
