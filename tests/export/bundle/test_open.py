"""Opening a bundle: any change since export is refused, in one line, before a parser reads the file."""

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from export.bundle import MAX_VERSION, Bundle, BundleError
from export.bundle.files import checksum
from export.bundle.manifest import CHECKSUM, MANIFEST
from tests.bundles import edit_manifest, make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "models")


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(bundle))
    return message


def test_an_untouched_bundle_opens(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert (opened.manifest.product, opened.manifest.version) == ("tile", 1)


def test_a_bundle_s_digest_is_its_manifest_s(bundle: Path) -> None:
    assert Bundle.open(bundle).digest == sha256((bundle / "manifest.json").read_bytes()).hexdigest()


def test_the_models_folder_may_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle.parent.parent)
    assert Bundle.open(tmp_path / "link" / "tile" / "1").digest == Bundle.open(bundle).digest


def test_one_changed_byte_in_any_file_is_noticed(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = bytearray(path.read_bytes())
        for position in (0, len(content) // 2, len(content) - 1):
            content[position] ^= 1
            path.write_bytes(content)
            assert path.name.rpartition(".")[0] in refusal(bundle)
            content[position] ^= 1
        path.write_bytes(content)
    Bundle.open(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    assert "model.onnx is missing" in refusal(bundle)


def test_an_unlisted_file_is_named(bundle: Path) -> None:
    (bundle / "golden" / "plugin.so").write_bytes(b"")
    assert "golden/plugin.so is not listed" in refusal(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "model.onnx", "golden"])
def test_links_inside_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.move(bundle / name, tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert name in refusal(bundle)


def test_special_files_are_refused(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    assert "pipe is a link or special file" in refusal(bundle)


def test_a_folder_that_is_not_a_bundle(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nothing")
    assert "no file manifest.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../1/model.onnx",
        "/etc/passwd",
        "golden//0.png",
        "./model.onnx",
        "a\\b",
        "C:x",
        "a\nb",
        "",
        "manifest.json",
        "model.sig",
    ],
)
def test_paths_stay_inside(bundle: Path, path: str) -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["files"][path] = "0" * 64
        facts["engines"][0]["file"] = path

    edit_manifest(bundle, change)
    assert "engines" in refusal(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"1", b"\xff", b"[" * 10**5])
def test_a_manifest_that_is_no_object_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_bytes(checksum(content))
    assert MANIFEST in refusal(bundle)


@pytest.mark.parametrize("product", ["../tile", "a/b", "", ".hidden", "..", "a\\b", "x" * 65, "tile\n"])
def test_product_names_cannot_be_paths(bundle: Path, product: str) -> None:
    edit_manifest(bundle, lambda facts: facts.update(product=product))
    assert "product" in refusal(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda facts: facts.update(schema_version=2),
            "schema version 2, but this program reads 1: export it",
        ),
        (
            lambda facts: facts.update(schema_version=0),
            "schema version 0, but this program reads 1: export it",
        ),
        (lambda facts: facts.update(schema_version="1"), "schema version '1', but"),
        (lambda facts: facts.pop("schema_version"), "schema version None, but"),
        (
            lambda facts: facts.update(surprise=1),
            "(surprise: Extra inputs are not permitted): export it again",
        ),
        (lambda facts: facts["thresholds"]["image"].update(threshold=float("nan")), "threshold"),
        (lambda facts: facts["thresholds"]["image"].update(threshold=-1.0), "is not above the median"),
        (lambda facts: facts["files"].pop("model.onnx"), "'model.onnx' is used but has no digest"),
        (lambda facts: facts.update(engines=[]), "engines"),
        (lambda facts: facts["engines"].append(facts["engines"][0]), "listed twice"),
        (lambda facts: facts["engines"][0].update(batch_sizes=[2, 3]), "batch_sizes"),
        (lambda facts: facts["engines"][0].update(batch_sizes=[2, 4]), "can't run a single frame"),
        (lambda facts: facts["engines"][0].update(guard_band=0.03), "guard_band"),
        (lambda facts: facts["geometry"].update(height=33), "multiples of 32"),
        (lambda facts: facts["geometry"].update(width=33), "multiples of 32"),
        (lambda facts: facts["geometry"].update(height=2**20), "4096"),
        (lambda facts: facts.update(version=0), "version"),
        (lambda facts: facts.update(version=MAX_VERSION + 1), "version"),
        (lambda facts: facts.pop("product"), "product"),
        (lambda facts: facts.clear(), "schema version None"),
    ],
)
def test_an_invalid_manifest_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_manifest(bundle, change)
    assert message in refusal(bundle)
