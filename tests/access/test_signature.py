"""A service with a trusted key serves what the key's owner signed, byte for byte, and nothing else."""

import gc
import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from export.bundle import Bundle, BundleError, TrustedKey
from export.bundle.manifest import CHECKSUM, MANIFEST, SIGNATURE
from export.bundle.signature import SigningKey
from tests.access.certificates import key_pair
from tests.bundles import edit_manifest, grey_level_network, make_bundle
from tests.e2e.serving import drd_serve, serving, wait_until


@pytest.fixture
def owner(tmp_path: Path) -> SigningKey:
    return SigningKey(key_pair(tmp_path)[0])


@pytest.fixture
def trusted(owner: SigningKey, tmp_path: Path) -> TrustedKey:
    return TrustedKey(tmp_path / "owner.pub")


@pytest.fixture
def bundle(owner: SigningKey, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "models", key=owner)


def refusal(bundle: Path, trusted: TrustedKey) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle, trusted)
    return str(caught.value).removeprefix(f"{bundle}: ")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_what_the_owner_signed_opens(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, curve=curve)
    bundle = make_bundle(tmp_path / "models", key=SigningKey(private))
    opened = Bundle.open(bundle, TrustedKey(public))
    assert (opened.manifest.product, opened.digest) == ("tile", Bundle.open(bundle).digest)


def test_without_a_trusted_key_a_signature_is_not_looked_at(bundle: Path) -> None:
    (bundle / SIGNATURE).write_text("{}")
    Bundle.open(bundle)


def test_what_nobody_signed_is_refused(tmp_path: Path, trusted: TrustedKey) -> None:
    assert "not signed" in refusal(make_bundle(tmp_path / "models"), trusted)


def test_what_another_signed_is_refused(tmp_path: Path, trusted: TrustedKey) -> None:
    other = SigningKey(key_pair(tmp_path, "other")[0])
    told = refusal(make_bundle(tmp_path / "models", key=other), trusted)
    assert "not made with the trusted key" in told


def test_a_manifest_edited_with_a_new_checksum_is_refused(bundle: Path, trusted: TrustedKey) -> None:
    edit_manifest(bundle, lambda facts: facts["thresholds"]["image"].update(threshold=0.9))
    Bundle.open(bundle)  # who may write there can do that, where no key is trusted
    assert "changed after signing" in refusal(bundle, trusted)


def test_a_signature_does_not_fit_another_bundle(bundle: Path, tmp_path: Path, trusted: TrustedKey) -> None:
    other = make_bundle(tmp_path / "models", "bolt")
    shutil.copy(bundle / SIGNATURE, other / SIGNATURE)
    assert "does not match manifest.json" in refusal(other, trusted)


def test_every_other_file_is_pinned_by_the_manifest(bundle: Path, trusted: TrustedKey) -> None:
    for name in ("model.onnx", CHECKSUM, "golden/0.png"):
        before = (bundle / name).read_bytes()
        (bundle / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert "damaged" in refusal(bundle, trusted)
        (bundle / name).write_bytes(before)
    (bundle / "more").write_text("")
    assert "not listed" in refusal(bundle, trusted)


def sign_otherwise(key: Path, bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Signs a statement that is not as `SigningKey` makes them, with the same key."""
    document = json.loads((bundle / SIGNATURE).read_text())
    statement = json.loads(b64decode(document["dsseEnvelope"]["payload"]))
    change(statement)
    payload, kind = json.dumps(statement).encode(), b"application/vnd.in-toto+json"
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = private.sign(encoded, ec.ECDSA(hashes.SHA256()))
    document["dsseEnvelope"]["payload"] = b64encode(payload).decode()
    document["dsseEnvelope"]["signatures"][0]["sig"] = b64encode(signature).decode()
    (bundle / SIGNATURE).write_text(json.dumps(document))


def _every(statement: dict[str, Any], **facts: str) -> None:
    for resource in statement["predicate"]["resources"]:
        resource.update(facts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda said: said.update(predicateType="https://slsa.dev/provenance/v1"), "other than a bundle"),
        (lambda said: said.update(_type="https://in-toto.io/Statement/v0.1"), "other than a bundle"),
        (lambda said: said["predicate"]["serialization"].update(method="shards"), "other than a bundle"),
        (lambda said: said["predicate"].update(resources=[]), "does not match manifest.json"),
        (
            lambda said: said["predicate"]["resources"].extend(said["predicate"]["resources"]),
            "does not match",
        ),
        (lambda said: _every(said, algorithm="blake3"), "does not match"),
        (lambda said: _every(said, name="a/manifest.json"), "does not match"),
    ],
)
def test_other_things_the_owner_signed_are_no_bundle(
    tmp_path: Path, bundle: Path, trusted: TrustedKey, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    sign_otherwise(tmp_path / "owner.pem", bundle, lambda _: None)
    Bundle.open(bundle, trusted)
    sign_otherwise(tmp_path / "owner.pem", bundle, change)
    assert told in refusal(bundle, trusted)


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: envelope.update(signatures=[]),
        lambda envelope: envelope["signatures"].append(envelope["signatures"][0]),
        lambda envelope: envelope["signatures"][0].update(sig=""),
        lambda envelope: envelope["signatures"][0].update(sig="***"),
        lambda envelope: envelope["signatures"][0].update(sig=b64encode(bytes(64)).decode()),
        lambda envelope: envelope.update(payloadType="text/plain"),
        lambda envelope: envelope.update(payload=b64encode(b64decode(envelope["payload"]) + b" ").decode()),
        lambda envelope: envelope.clear(),
    ],
)
def test_a_damaged_signature_is_refused(
    bundle: Path, trusted: TrustedKey, change: Callable[[dict[str, Any]], None]
) -> None:
    document = json.loads((bundle / SIGNATURE).read_text())
    change(document["dsseEnvelope"])
    (bundle / SIGNATURE).write_text(json.dumps(document))
    assert SIGNATURE in refusal(bundle, trusted)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_signature_is_refused(bundle: Path, trusted: TrustedKey, content: bytes) -> None:
    (bundle / SIGNATURE).write_bytes(content)
    assert f"{SIGNATURE} is not a valid signature" in refusal(bundle, trusted)


def test_a_linked_signature_is_refused(bundle: Path, trusted: TrustedKey, tmp_path: Path) -> None:
    shutil.move(bundle / SIGNATURE, tmp_path / "elsewhere")
    (bundle / SIGNATURE).symlink_to(tmp_path / "elsewhere")
    assert "is a link or special file" in refusal(bundle, trusted)


def test_files_exchanged_after_the_check_are_not_used(bundle: Path, trusted: TrustedKey) -> None:
    opened = Bundle.open(bundle, trusted)
    evil = make_bundle(bundle.parents[2] / "evil", network=grey_level_network((32, 32), bias=-1.0))
    shutil.rmtree(bundle)
    shutil.copytree(evil, bundle)
    predictor = opened.start()
    assert predictor.predict(np.full((1, 32, 32, 3), 255, np.uint8)).score == pytest.approx(1.0)
    predictor.close()


def test_the_private_copy_goes_with_the_bundle(bundle: Path, trusted: TrustedKey) -> None:
    opened = Bundle.open(bundle, trusted)
    copy = opened.root
    assert copy != bundle
    assert copy.stat().st_mode & 0o777 == 0o700
    assert (copy / MANIFEST).is_file()
    del opened
    gc.collect()
    assert not copy.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from export.bundle import Bundle, TrustedKey
bundle = Bundle.open(Path(sys.argv[1]), TrustedKey(Path(sys.argv[2])))
print(bundle.root, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_another_uses_is_not(
    bundle: Path, trusted: TrustedKey, tmp_path: Path
) -> None:
    used = Bundle.open(bundle, trusted)
    command = [sys.executable, "-c", KILLED, str(bundle), str(tmp_path / "owner.pub")]
    killed = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    for copy in (used.root, left):
        os.utime(copy, (0, 0))
    again = Bundle.open(bundle, trusted)
    assert not left.exists()
    assert (used.root / MANIFEST).is_file()
    assert (again.root / MANIFEST).is_file()


def test_the_service_says_why_it_refuses(owner: SigningKey, tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_bundle(models, "tile", key=owner)
    make_bundle(models, "bolt")
    with serving(models, trusted_key=tmp_path / "owner.pub") as running:

        def bolt() -> dict[str, Any]:
            listed = httpx.get(f"{running.url}/v1/products").json()["products"]
            states = {each["name"]: each for each in listed}
            assert states["tile"]["state"] == "READY"
            newest: dict[str, Any] = states["bolt"]["versions"][0]
            return newest

        assert bolt()["state"] == "FAILED"
        assert "it is not signed" in bolt()["reason"]
        owner.sign(models / "bolt" / "1")
        wait_until(lambda: bolt()["state"] == "READY")


def test_keys_that_cannot_be_used_are_told_apart(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    other = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "ed.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ed.pub").write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    missing = tmp_path / "no"
    for path, told in ((private, "not a public key"), (tmp_path / "ed.pub", "curve"), (missing, "No such")):
        with pytest.raises(BundleError, match=told):
            TrustedKey(path)
    for path, told in ((public, "not a private key"), (tmp_path / "ed.pem", "curve")):
        with pytest.raises(BundleError, match=told):
            SigningKey(path)


def test_a_trusted_key_that_is_none_ends_it_at_the_start(tmp_path: Path) -> None:
    ended = drd_serve("--models", tmp_path, "--trusted-key", tmp_path / "none", "--http", "127.0.0.1:0")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "the trusted key" in line
