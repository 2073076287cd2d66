"""Signatures of bundles, in the format of the model-signing project: an elliptic-curve key signs the list of
all files with their digests (an in-toto statement in a DSSE envelope, stored as a Sigstore bundle).

The project's own program can sign and verify bundles, too. The service does not use it: it needs twenty
packages, some with network clients, and reads the files again. Here the signed digest is compared with the
bytes that the manifest is parsed from, and the manifest has the digest of every other file.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import Base64Bytes, BaseModel, Field, ValidationError

from export.bundle.files import read_regular
from export.bundle.manifest import MANIFEST, SIGNATURE, BundleError
from training.files import file_digest

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""Hash of a signature, by the key's curve."""


class _Signature(BaseModel):
    sig: Base64Bytes


class _Envelope(BaseModel):
    payload: Base64Bytes
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: tuple[_Signature]


class _SigstoreBundle(BaseModel):
    envelope: _Envelope = Field(alias="dsseEnvelope")


class _Resource(BaseModel):
    name: str
    algorithm: str
    digest: str


class _Serialization(BaseModel):
    method: Literal["files"]


class _Predicate(BaseModel):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(BaseModel):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    predicate: _Predicate


class TrustedKey:
    """A public key: only bundles signed with its private key may be served."""

    def __init__(self, path: Path) -> None:
        """Reads the key from a PEM file. Raises BundleError."""
        key = _read_key(f"the trusted key {path}", path, load_pem_public_key, "a public key in PEM format")
        assert isinstance(key, EllipticCurvePublicKey)
        self._key = key

    def check(self, root: Path, manifest: bytes) -> None:
        """Raises BundleError unless this key signed the bundle at `root` with these bytes of its
        `manifest`."""
        missing = f"it is not signed (no {SIGNATURE}), but a trusted key is set"
        resources = self._statement(read_regular(root / SIGNATURE, missing)).predicate.resources
        signed = [(each.algorithm, each.digest) for each in resources if each.name == MANIFEST]
        if signed != [("sha256", hashlib.sha256(manifest).hexdigest())]:
            raise BundleError(f"{SIGNATURE} does not match {MANIFEST}, which was changed after signing")

    def _statement(self, content: bytes) -> _Statement:
        """The statement in the signature file's `content`, after its signature was verified."""
        try:
            envelope = _SigstoreBundle.model_validate_json(content).envelope
        except ValidationError as error:
            raise BundleError(f"{SIGNATURE} is not a valid signature file") from error
        (signature,) = envelope.signatures
        try:
            self._key.verify(signature.sig, _encoded(envelope.payload), _algorithm(self._key))
        except InvalidSignature as error:
            raise BundleError(f"{SIGNATURE} was not made with the trusted key, or was changed") from error
        try:
            return _Statement.model_validate_json(envelope.payload)
        except ValidationError as error:
            raise BundleError(f"{SIGNATURE} signs something other than a bundle") from error


class SigningKey:
    """The private key that goes with a `TrustedKey`."""

    def __init__(self, path: Path) -> None:
        """Reads the key from a PEM file without a password. Raises BundleError."""
        load = partial(load_pem_private_key, password=None)
        what = "a private key in PEM format, or has a password"
        key = _read_key(f"the signing key {path}", path, load, what)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key

    def sign(self, root: Path) -> None:
        """Signs the finished bundle at `root`."""
        payload = json.dumps(_statement_of(root)).encode()
        public = self._key.public_key()
        signature = self._key.sign(_encoded(payload), _algorithm(public))
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        document = {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": b64encode(signature).decode(), "keyid": ""}],
            },
        }
        (root / SIGNATURE).write_text(json.dumps(document), encoding="utf-8")


def _read_key(
    name: str, path: Path, load: Callable[[bytes], object], what: str
) -> EllipticCurvePublicKey | EllipticCurvePrivateKey:
    """The key in a file, of the kind that `load` gives and `what` says. Raises BundleError."""
    try:
        key = load(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{name}: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(f"{name} is not {what}") from error
    if not isinstance(key, EllipticCurvePublicKey | EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise BundleError(f"{name} is not on a supported curve ({', '.join(_HASHES)})")
    return key


def _statement_of(root: Path) -> dict[str, Any]:
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    digests = {name: file_digest(root / name) for name in names if name != SIGNATURE}
    whole = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": "bundle", "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
            ],
        },
    }


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    return ECDSA(_HASHES[key.curve.name]())
