"""What the service is made of: pinned, listed, and signed in a way that others' tools understand."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.bundle import Bundle, BundleError, TrustedKey
from export.bundle.manifest import SIGNATURE
from export.bundle.signature import SigningKey
from tests.access.certificates import key_pair
from tests.bundles import edit_manifest, make_bundle

REPOSITORY = Path(__file__).parents[2]


def test_every_requirement_is_pinned_with_its_hashes() -> None:
    files = sorted((REPOSITORY / "requirements").glob("*.txt"))
    assert files
    for file in files:
        joined = file.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert lines
        for line in lines:
            assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_nothing_reads_pickles() -> None:
    """Of the places that could: none is imported, and no library is asked to."""
    for path in [p for room in ("training", "export", "service") for p in (REPOSITORY / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & set(names), path
            if isinstance(node, ast.Call):
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                called = ast.unparse(node.func)
                assert given.get("allow_pickle", "False") == "False", path
                assert not called.endswith("torch.load") or given.get("weights_only") == "True", path


@pytest.mark.system
@pytest.mark.timeout(900)
def test_make_sbom_lists_what_the_service_needs(tmp_path: Path) -> None:
    subprocess.run(["make", "sbom", f"SBOM={tmp_path}"], cwd=REPOSITORY, check=True)
    document = json.loads((tmp_path / "service.cdx.json").read_bytes())
    assert document["bomFormat"] == "CycloneDX"
    listed = {(each["name"].lower().replace("_", "-"), each["version"]) for each in document["components"]}
    text = (REPOSITORY / "requirements" / "service.txt").read_text(encoding="utf-8")
    assert listed <= set(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))
    assert {"grpcio", "onnxruntime", "pillow", "uvicorn"} <= {name for name, _ in listed}


@pytest.mark.system
@pytest.mark.timeout(900)
def test_model_signings_own_program_understands_our_signatures_and_we_understand_its(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "tool"], check=True)
    pip, pins = tmp_path / "tool" / "bin" / "pip", Path(__file__).with_name("model_signing.txt")
    subprocess.run([pip, "install", "-q", "--disable-pip-version-check", "-r", pins], check=True)

    def model_signing(*arguments: str | Path) -> int:
        program = tmp_path / "tool" / "bin" / "model_signing"
        return subprocess.run([program, *arguments], check=False, cwd=tmp_path).returncode

    private, public = key_pair(tmp_path)
    ours = make_bundle(tmp_path / "models", key=SigningKey(private))
    verify = ("verify", "key", ours, "--signature", ours / SIGNATURE, "--public_key", public)
    assert model_signing(*verify) == 0

    theirs = make_bundle(tmp_path / "models", "bolt")
    sign = ("sign", "key", theirs, "--signature", theirs / SIGNATURE, "--private_key", private)
    assert model_signing(*sign) == 0
    trusted = TrustedKey(public)
    Bundle.open(theirs, trusted)
    shutil.copy(theirs / SIGNATURE, ours / SIGNATURE)
    edit_manifest(theirs, lambda facts: facts.update(min_area=7))
    for bundle in (ours, theirs):
        with pytest.raises(BundleError, match="changed after signing"):
            Bundle.open(bundle, trusted)
    assert model_signing(*verify) != 0
