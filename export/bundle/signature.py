"""Signatures of bundles, in the format of the model-signing project: an elliptic-curve key signs the list of
all files with their digests (an in-toto statement in a DSSE envelope, kept as a Sigstore bundle).

Its own program signs and verifies bundles, too. It is not what the service verifies with, as it brings twenty
packages, clients of networks among them, and reads the files again: here the signed digest is compared with
the very bytes that the manifest is parsed from, and those pin every other file.
"""

import hashlib
import json
import stat
from base64 import b64encode
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

from export.bundle.manifest import MANIFEST, SIGNATURE, BundleError
from training.files import file_digest

_MAX_BYTES = 16 * 2**20
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""Of a signature, by the key's curve."""


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
    """A public key: what its owner has signed may be served, and nothing else."""

    def __init__(self, path: Path) -> None:
        """Reads the key from a PEM file; BundleError when it can't be used."""
        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise BundleError(f"the trusted key {path}: {error.strerror or error}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BundleError(f"the trusted key {path} is no public key in PEM") from error
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise BundleError(f"the trusted key {path} is on none of the curves {', '.join(_HASHES)}")
        self._key = key

    def check(self, root: Path, manifest: bytes) -> None:
        """Raises BundleError unless the owner signed the bundle at `root`, whose manifest is `manifest`."""
        resources = self._statement(_read(root / SIGNATURE)).predicate.resources
        signed = [(each.algorithm, each.digest) for each in resources if each.name == MANIFEST]
        if signed != [("sha256", hashlib.sha256(manifest).hexdigest())]:
            raise BundleError(f"{SIGNATURE} is not of this {MANIFEST}: it was altered after it was signed")

    def _statement(self, content: bytes) -> _Statement:
        """What `content` signs, once that is known to be the owner's."""
        try:
            envelope = _SigstoreBundle.model_validate_json(content).envelope
        except ValidationError as error:
            raise BundleError(f"{SIGNATURE} is no signature") from error
        (signature,) = envelope.signatures
        try:
            self._key.verify(signature.sig, _encoded(envelope.payload), _algorithm(self._key))
        except InvalidSignature as error:
            raise BundleError(f"{SIGNATURE} was not made with the trusted key, or was altered") from error
        try:
            return _Statement.model_validate_json(envelope.payload)
        except ValidationError as error:
            raise BundleError(f"{SIGNATURE} signs something other than a bundle") from error


class SigningKey:
    """The private key that goes with a `TrustedKey`."""

    def __init__(self, path: Path) -> None:
        """Reads the key from a PEM file without a password; BundleError when it can't be used."""
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise BundleError(f"the signing key {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BundleError(f"the signing key {path} is no PEM private key, or has a password") from error
        if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
            raise BundleError(f"the signing key {path} is on none of the curves {', '.join(_HASHES)}")
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
    """The bytes that are signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    return ECDSA(_HASHES[key.curve.name]())


def _read(path: Path) -> bytes:
    try:
        facts = path.lstat()
    except FileNotFoundError as error:
        raise BundleError(f"it is not signed: there is no {path.name}, and a trusted key is set") from error
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_BYTES:
        raise BundleError(f"{path.name} is a link, no file, or too large")
    return path.read_bytes()
