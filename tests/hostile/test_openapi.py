"""The OpenAPI document against the service it describes: schemathesis asks whatever the document allows."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.bundles import make_bundle
from tests.e2e.serving import process

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_answers_are_as_the_document_says(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with process("--models", tmp_path / "models") as service:
        streams = [
            path for path in httpx.get(f"{service.url}/openapi.json").json()["paths"] if "event" in path
        ]
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
        command += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "60"]
        command += ["--seed", "7", "--no-color", "--request-timeout", "60", "--warnings", "off"]
        command += [part for path in streams for part in ("--exclude-path", path)]  # they never end
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=500)
        assert service.popen.poll() is None

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
