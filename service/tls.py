"""Certificates of both doors: one set of files, read anew when they change, in force from the next handshake.

Connections that stand go on with what they began with.
"""

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

_logger = logging.getLogger(__name__)


class TlsError(ValueError):
    """Certificate, key or authority can't be used; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class _Material:
    """What the files hold, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class _FollowingContext(ssl.SSLContext):
    """The context a listener is given once: every handshake begins in the one that is `current` by then."""

    current: ssl.SSLContext

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*arguments, **options)


class Tls:
    """The certificates in force. TlsError when there are none at the start; later the last good ones stay."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None) -> None:
        self._chain, self._key, self._client_ca = chain, key, client_ca
        self.context = _FollowingContext(ssl.PROTOCOL_TLS_SERVER)
        """What uvicorn listens with."""
        self._material = self._read()
        self._put_in_force(self._material)
        self._trouble = ""

    def refresh(self) -> None:
        """Follows the files. What can't be used, like a certificate before its key, changes nothing."""
        try:
            material = self._read()
            if material != self._material:
                self._put_in_force(material)
                _logger.info("certificate read anew, valid until %s", self.expires.isoformat())
        except TlsError as error:
            if str(error) != self._trouble:
                _logger.error("the certificate stays as it was: %s", error)
            self._trouble = str(error)
            return
        self._material, self._trouble = material, ""

    def seconds_left(self) -> float:
        """Until the first certificate of the chain in force expires; negative afterwards."""
        return (self.expires - datetime.now(UTC)).total_seconds()

    def credentials(self) -> grpc.ServerCredentials:
        """What one port of the gRPC server listens with: it fetches what has changed at a handshake."""
        given = self._material

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._material:
                return None
            given = self._material
            return _for_grpc(given)

        return grpc.dynamic_ssl_server_credentials(
            _for_grpc(given),
            fetch,  # type: ignore[arg-type]  # the stubs do not know None: nothing has changed
            require_client_authentication=self._client_ca is not None,
        )

    def _read(self) -> _Material:
        client_ca = None if self._client_ca is None else _content(self._client_ca)
        return _Material(_content(self._chain), _content(self._key), client_ca)

    def _put_in_force(self, material: _Material) -> None:
        chain = _certificates(self._chain, material.chain)
        if self._client_ca is not None:
            _certificates(self._client_ca, material.client_ca or b"")
        context = self._make_context()
        if self._read() != material:
            raise TlsError("the files changed while they were read")
        self.context.current = context
        self.expires = min(certificate.not_valid_after_utc for certificate in chain)
        if self.seconds_left() < 0:
            _logger.error("the certificate in %s expired on %s", self._chain, self.expires.isoformat())

    def _make_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._client_ca)
        except OSError as error:  # ssl.SSLError too: the second certificate may be half there
            raise TlsError(f"{self._client_ca} can't be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        try:
            # Without a password of ours, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._chain, self._key, password=lambda: "")
        except OSError as error:  # ssl.SSLError too
            raise TlsError(f"{self._key} is not the key of {self._chain}, or is encrypted") from error
        return context


def _for_grpc(material: _Material) -> grpc.ServerCertificateConfiguration:
    pair = (material.key, material.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.client_ca)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from error


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise TlsError(f"{path} holds no certificate in PEM") from error
