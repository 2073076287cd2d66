"""Where a service is and how it is entered."""

import re
import ssl
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
        scheme, _, rest = text.partition(":")
        door: Literal["http", "grpc"] = "grpc" if scheme.startswith("grpc") else "http"
        if scheme in ("http+unix", "grpc+unix") and rest:
            return Address(door, rest, unix=True)
        url = urlsplit(text)
        bare = not (url.path.strip("/") or url.query or url.fragment or url.username)
        if url.scheme not in ("http", "https", "grpc", "grpcs") or not url.hostname or not bare:
            raise ValueError(f"{text!r} is not an address: give {_FORMS}")
        usual = {"http": 8080, "https": 443, "grpc": 8081, "grpcs": 443}[url.scheme]
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        return Address(door, f"{host}:{url.port or usual}", tls=url.scheme in ("https", "grpcs"))

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return f"unix:{self.place}" if self.unix else self.place

    def __str__(self) -> str:
        if self.unix:
            return f"{self.door}+unix:{self.place}"
        return f"{self.door}{'s' * self.tls}://{self.place}"


@dataclass(frozen=True, slots=True)
class Access:
    """What lets a client in, and how it knows the service."""

    token: str | None = None
    ca: Path | None = None
    """PEM: who may have signed the service's certificate; None: the system's authorities."""
    certificate: tuple[Path, Path] | None = None
    """PEM: the client's own certificate and its key, where the service asks for one."""

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("the token is not one a service could have given: visible ASCII, without spaces")

    def headers(self) -> dict[str, str]:
        """By lower-case name; of both doors."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def tls(self) -> ssl.SSLContext:
        """OSError or ssl.SSLError when a file can't be used."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return context
