"""Certificates of both doors: one set of files, reloaded when they change, used from the next handshake on.

Open connections keep the certificate they began with.
"""

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from service.files import read_file
from service.logs import LogOnce

_logger = logging.getLogger(__name__)


class TlsError(ValueError):
    """Certificate, key or authority can't be used; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class _Material:
    """The content of the files, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class _FollowingContext(ssl.SSLContext):
    """Given to a listener once; every handshake uses the context that is `current` at that time."""

    current: ssl.SSLContext

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*arguments, **options)


class Tls:
    """The certificates in use. TlsError if they are invalid at the start; later the last valid ones stay."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None) -> None:
        self._chain, self._key, self._client_ca = chain, key, client_ca
        self.context = _FollowingContext(ssl.PROTOCOL_TLS_SERVER)
        """For uvicorn's listeners."""
        self._material = self._read()
        self._put_in_force(self._material)
        self._log_once = LogOnce()

    def refresh(self) -> None:
        """Reloads changed files. Invalid ones, such as a new certificate before its key, change nothing."""
        try:
            material = self._read()
            if material != self._material:
                self._put_in_force(material)
                self._material = material
                _logger.info("certificate reloaded, valid until %s", self.expires.isoformat())
        except TlsError as error:
            if self._log_once.changed(str(error)):
                _logger.error("the certificate in use is kept: %s", error)
        else:
            self._log_once.changed("")

    def seconds_left(self) -> float:
        """Seconds until the first certificate of the chain in use expires; negative afterwards."""
        return (self.expires - datetime.now(UTC)).total_seconds()

    def credentials(self) -> grpc.ServerCredentials:
        """For one port of the gRPC server: it fetches changed certificates at a handshake."""
        given = self._material

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._material:
                return None
            given = self._material
            return _for_grpc(given)

        return grpc.dynamic_ssl_server_credentials(
            _for_grpc(given),
            fetch,  # type: ignore[arg-type]  # the stubs lack None, which means unchanged
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
        except OSError as error:  # includes ssl.SSLError: the file may be incomplete
            raise TlsError(f"{self._client_ca} can't be used: {error}") from error
        # Like gRPC. Python's default depends on its version: from 3.13 on it refuses authorities that
        # a plain `openssl req -x509` makes.
        context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        try:
            # Without a password, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._chain, self._key, password=lambda: "")
        except OSError as error:  # includes ssl.SSLError
            raise TlsError(f"{self._key} is not the key of {self._chain}, or is encrypted") from error
        return context


def _for_grpc(material: _Material) -> grpc.ServerCertificateConfiguration:
    pair = (material.key, material.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.client_ca)


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from error


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise TlsError(f"{path} contains no PEM certificate") from error
