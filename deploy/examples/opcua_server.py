"""An OPC UA server by asyncua, for known clients only, whose method calls do not wait for each other."""

import asyncio
import logging
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from asyncua import Server, ua
from asyncua.common.utils import Buffer, ServiceError
from asyncua.crypto.permission_rules import USER_TYPES
from asyncua.server import binary_server_asyncio
from asyncua.server.address_space import MethodService
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.ua_binary import nodeid_from_binary
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from gateway import tell


def standard(number: int) -> ua.NodeId:
    """A node that the specification numbers, such as a type."""
    return ua.NodeId.from_string(f"i={number}")


CALL = standard(ua.ObjectIds.CallRequest_Encoding_DefaultBinary)
FOR_STRANGERS = {
    standard(ua.ObjectIds.GetEndpointsRequest_Encoding_DefaultBinary),
    standard(ua.ObjectIds.FindServersRequest_Encoding_DefaultBinary),
}
FOR_CLIENTS = {standard(each) for each in USER_TYPES} - {
    standard(ua.ObjectIds.WriteRequest_Encoding_DefaultBinary)
}


class Processor(UaProcessor):
    """One connection.

    asyncua alone answers its requests one after another, and asks who a client is only when it activates a
    session: without a certificate it may then use that of another client, whose number it has guessed.
    """

    trusted: ClassVar[frozenset[bytes] | None] = None
    """The clients' certificates; None: anyone is a client."""
    _calls: ClassVar = set[asyncio.Task[bool]]()

    async def process(self, header: ua.Header, body: Buffer) -> bool:
        """Whether the connection goes on: not after what is not signed with the certificate's key, say."""
        try:
            return bool(await super().process(header, body))  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001
            tell(f"refused {self.name}: {error!r}")
            return False

    async def process_message(self, seqhdr: ua.SequenceHeader, body: Buffer) -> bool:
        is_call = nodeid_from_binary(body.copy()) == CALL
        answering = super().process_message(seqhdr, body)  # type: ignore[no-untyped-call]
        if not is_call:
            return bool(await answering)
        task = asyncio.create_task(answering)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return True

    async def _process_message(
        self, typeid: ua.NodeId, requesthdr: ua.RequestHeader, seqhdr: ua.SequenceHeader, body: Buffer
    ) -> bool:
        if typeid not in FOR_STRANGERS:
            if not self._is_client():
                tell(f"refused {self.name}: its certificate is not among the trusted ones")
                raise ServiceError(ua.StatusCodes.BadSecurityChecksFailed)
            if typeid not in FOR_CLIENTS:
                raise ServiceError(ua.StatusCodes.BadUserAccessDenied)
        return bool(await super()._process_message(typeid, requesthdr, seqhdr, body))  # type: ignore[no-untyped-call]

    def _is_client(self) -> bool:
        # Only an open channel has proved that its peer has the certificate's key.
        channel = self._connection
        certificate = channel.security_policy.peer_certificate if channel.is_open() else None
        return self.trusted is None or certificate in self.trusted


class Methods(MethodService):
    async def call(self, methods: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Those of one request do not wait for each other either."""
        results = await asyncio.gather(*(super(Methods, self).call([each]) for each in methods))
        return [result for (result,) in results]


@dataclass(frozen=True)
class Identity:
    """The server's certificate and key, and the clients' certificates."""

    certificate: x509.Certificate
    key: RSAPrivateKey
    uri: str
    """Clients compare it with what the server says of itself."""
    trusted: frozenset[bytes]

    @staticmethod
    def load(certificate_file: Path, key_file: Path, trusted: Path) -> "Identity":
        """Raises OSError or ValueError for what can't be used."""
        certificate = certificate_in(certificate_file)
        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{key_file} is no key without a password: {error}") from error
        if not isinstance(key, RSAPrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{key_file} is not the RSA key of {certificate_file}")
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        except (x509.ExtensionNotFound, IndexError):
            raise ValueError(f"{certificate_file} has no URI in its subjectAltName") from None
        clients = (certificate_in(path) for path in trusted.iterdir() if path.is_file())
        return Identity(certificate, key, uri, frozenset(each.public_bytes(Encoding.DER) for each in clients))


def certificate_in(path: Path) -> x509.Certificate:
    """PEM or DER, whatever the file is called."""
    content = path.read_bytes()
    load = x509.load_pem_x509_certificate if b"-----BEGIN" in content else x509.load_der_x509_certificate
    try:
        return load(content)
    except ValueError as error:
        raise ValueError(f"{path} is not a certificate: {error}") from error


async def server_at(url: str, identity: Identity | None) -> Server:
    """Not started yet. Without an identity everyone is a client, and nothing is signed or encrypted."""
    if not version("asyncua").startswith("2.1."):
        raise ValueError("asyncua has to be 2.1: parts of it are replaced here")
    binary_server_asyncio.UaProcessor = Processor  # type: ignore[misc]
    logging.getLogger("asyncua.server.server").setLevel(logging.CRITICAL)  # what it says is raised, too
    server = Server()
    await server.init()
    server.iserver.method_service = Methods(server.iserver.aspace)
    server.set_endpoint(url)
    server.set_server_name("DRD Inspect")
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    if identity is not None:
        Processor.trusted = identity.trusted
        server.iserver.certificate, server.iserver.private_key = identity.certificate, identity.key
        await server.set_application_uri(identity.uri)
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    return server


def address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "opc.tcp" or not parts.hostname or not parts.port:
        raise ValueError("it must be opc.tcp://HOST:PORT")
    return text


def is_local(url: str) -> bool:
    """Whether only programs of this machine can reach it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
