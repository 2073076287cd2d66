"""The address of a service, and the credentials for it."""

import re
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

_TOKEN = re.compile(r"[\x21-\x7e]+")
_FORMS = "http://HOST:PORT, https://…, grpc://…, grpcs://…, http+unix:PATH or grpc+unix:PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """`place` is HOST:PORT, or the path of a unix socket."""

    door: Literal["http", "grpc"]
    place: str
    tls: bool = False
    unix: bool = False

    @staticmethod
    def parse(text: str) -> "Address":
        """ValueError unless it is one of the six forms."""
        url = urlsplit(text)
        door: Literal["http", "grpc"] = "grpc" if url.scheme.startswith("grpc") else "http"
        if url.scheme in ("http+unix", "grpc+unix") and (path := text.partition(":")[2]):
            if sys.platform == "win32":
                raise ValueError(f"{text!r}: Windows has no unix sockets that Python knows")
            return Address(door, path, unix=True)
        bare = not (url.path.strip("/") or url.query or url.fragment or "@" in url.netloc or url.port == 0)
        if url.scheme not in ("http", "https", "grpc", "grpcs") or not url.hostname or not bare:
            raise ValueError(f"{text!r} is not an address: give {_FORMS}")
        usual = {"http": 8080, "https": 443, "grpc": 8081, "grpcs": 443}[url.scheme]
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        return Address(door, f"{host}:{url.port or usual}", tls=url.scheme in ("https", "grpcs"))

    @property
    def target(self) -> str:
        """In gRPC's syntax."""
        return f"unix:{self.place}" if self.unix else self.place

    def __str__(self) -> str:
        if self.unix:
            return f"{self.door}+unix:{self.place}"
        return f"{self.door}{'s' if self.tls else ''}://{self.place}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The client's credentials, and how it verifies the service."""

    token: str | None = None
    ca: Path | None = None
    """PEM: certificate authorities for the service's certificate; None: the system's."""
    certificate: tuple[Path, Path] | None = None
    """PEM: the client's certificate and its key, if the service asks for one."""

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("the token is not valid: it must be visible ASCII without spaces")

    def headers(self) -> dict[str, str]:
        """By lower-case name; for both doors."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def tls(self) -> ssl.SSLContext:
        """OSError, which names the file, when one can't be used."""
        files = str(self.ca)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            # Like gRPC. Python's default depends on its version: from 3.13 on it refuses authorities that
            # a plain `openssl req -x509` makes.
            context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
            if self.certificate is not None:
                files = " or ".join(map(str, self.certificate))
                context.load_cert_chain(*self.certificate)
        except OSError as error:  # ssl.SSLError is one, too; neither names the file
            raise OSError(f"{files}: {error.strerror or error}") from error
        return context
