"""Settings of one deployment: `DRD_*` in the environment; the options of `drd-serve` take precedence."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from export.bundle import MAX_IMAGE_PIXELS, Verdict, auto_or_known, cores_allowed

MEBIBYTE = 2**20
AROUND_IMAGE = 2**16
"""Bytes that a request may hold beside its image: what else is in a form, the other fields of a message."""
_MAX_SECONDS = 30 * 24 * 3600
"""A longer time is probably a mistake, and timers fail somewhere above it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a door listens: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @staticmethod
    def parse(text: str) -> "Address":
        """`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; ValueError otherwise."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return Address(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
            raise ValueError(f"{text!r} is not an address: give HOST:PORT or unix:PATH")
        return Address(host, int(port))

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach it."""
        try:
            return bool(self.path) or self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:  # a host name, which may resolve to any address
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


def _address(given: object) -> object:
    return Address.parse(given) if isinstance(given, str) else given


def _not_empty(given: object) -> object:
    """An empty path would be taken for the current folder."""
    if given == "":
        raise ValueError("it is empty: give a path, or leave it out")
    return given


def _addresses(given: object) -> object:
    """As `_several`, where an empty text opens no door; from the command line a list of texts, not empty."""
    if isinstance(given, list):
        return tuple(address for text in given for address in _split(text) or [text])
    return _several(given)


def _several(given: object) -> object:
    """From the environment one text, separated by commas or spaces."""
    return _split(given) if isinstance(given, str) else given


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


OneAddress = Annotated[Address, BeforeValidator(_address)]
File = Annotated[Path, BeforeValidator(_not_empty)]
Addresses = Annotated[tuple[OneAddress, ...], NoDecode, BeforeValidator(_addresses)]
# Bounded, so that what can't work is refused at the start and not by a library later.
Seconds = Annotated[float, Field(gt=0, le=_MAX_SECONDS, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=_MAX_SECONDS, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=1000 * _MAX_SECONDS, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=2**31 - 2)]
"""An int32, as in gRPC, which takes the largest for "no limit"."""
Memory = Annotated[int, Field(gt=0, le=2**40)]


class Settings(BaseSettings):
    """The environment is read on construction, never at import. Names of times end in their unit."""

    model_config = SettingsConfigDict(env_prefix="DRD_", frozen=True, extra="forbid")

    models: File
    """The models folder, with bundles in MODELS_DIR/PRODUCT/VERSION/."""
    http: Addresses = (Address("127.0.0.1", 8080),)
    grpc: Addresses = (Address("127.0.0.1", 8081),)
    """Where each door listens; of both, several addresses are separated by commas or spaces."""
    admin: OneAddress | None = None
    """Another address, for health and metrics only."""
    tokens: File | None = None
    """Tokens of the callers who may ask: a file made by `drd-serve token`, reloaded when it changes. None:
    anyone who can connect may ask."""
    tls_certificate: File | None = None
    tls_key: File | None = None
    """PEM files, both or none: TCP addresses of both doors then use TLS. Reloaded when they change."""
    tls_client_ca: File | None = None
    """PEM file of certificate authorities: callers over TCP then need a certificate signed by one of them."""
    open_to_anyone: bool = False
    """Allow addresses that other machines reach without tokens or client certificates."""
    trusted_key: File | None = None
    """PEM file of a public key: bundles not signed with its private key are refused."""
    engine: Annotated[str, AfterValidator(auto_or_known)] = "auto"
    """An engine's id, or auto: the first in the manifest that passes its golden frames here."""

    takt_ms: Milliseconds = 200
    """The line's time budget per frame; every latency histogram has a bucket edge there."""
    default_deadline_ms: Milliseconds = 1000
    """A request without a deadline is queued as if it had this one, or a later one where many wait, and never
    expires."""
    max_image_bytes: Annotated[int, Field(gt=0, le=2**30)] = 64 * MEBIBYTE
    """At most 1 GiB: a gRPC message is shorter than 2 GiB."""
    max_image_pixels: Count = MAX_IMAGE_PIXELS
    max_image_side: Count = 32_768
    """Pixels of the longer side."""
    decode_seconds: Seconds = 5
    """CPU time for decoding one image, four times that for making its output images; and twenty times that by
    the clock, after which the worker is ended."""
    decode_bytes: Memory = 1536 * MEBIBYTE
    """Memory for one image, in addition to a worker's memory at its start; 40 megapixels take 1 GiB."""
    max_queued_frames: Count = 256
    """Requests accepted and not yet answered, of each product version."""
    max_queued_bytes: Memory = 512 * MEBIBYTE
    """Bytes of all requests together, over all products, from the first that arrives; then those of their
    answers until they are read."""
    workers: Annotated[int, Field(gt=0, le=4096)] = Field(default_factory=lambda: cores_allowed() + 1)
    """Processes that decode images, evaluate maps and encode pictures. One more than there are cores keeps
    every core busy while an answer waits for the event loop."""
    engine_hang_seconds: Seconds = 30
    """An engine busy with one batch for longer is hanging: the liveness check fails until it returns."""

    max_connections: Count = 1024
    """Per door. Above it, HTTP closes the connection idle for longest, or answers 503 if none is idle; gRPC
    accepts no more."""
    max_url_bytes: Count = 8192
    max_head_bytes: Count = 32_768
    """A request's URL, and all its header fields together; for gRPC, a call's metadata."""
    head_seconds: Seconds = 10
    """Limit for receiving a request's head, from its first byte, and for a connection's TLS handshake."""
    receive_seconds: Seconds = 10
    """Limit for receiving a request's body, from the end of its head."""
    answer_seconds: Seconds = 30
    """Limit for the caller to read an answer. gRPC's unary calls have none: what is not read of them counts
    for `max_queued_bytes` as long as the connection lasts."""
    idle_seconds: Seconds = 75
    """Idle connections, of gRPC those without calls, are closed after this time."""
    max_calls: Count = 100
    """Concurrent gRPC calls per connection."""

    stream_window: Count = 16
    """Unanswered requests per gRPC stream; at this number, the stream is not read."""
    max_connection_age_seconds: Seconds = 1800
    """After this time a gRPC client is asked to reconnect, so that new replicas get their share."""

    watch_seconds: Seconds = 2
    """Interval at which the models folder, tokens and certificates are checked for changes;
    tokens twice as often, as a change counts only when two checks have found the same."""
    keep_old_seconds: SecondsOrZero = 10
    """How long a replaced version still answers requests with its `version`."""
    lame_duck_seconds: SecondsOrZero = 2
    """After SIGTERM: time in which it is not ready but still serves, until callers stop sending."""
    drain_seconds: Seconds = 30
    """How long the shutdown waits for accepted requests to be answered."""
    history_bytes: Annotated[int, Field(ge=0, le=2**40)] = 128 * MEBIBYTE
    """Images of the newest verdicts, kept in memory for the operator page; 0: no images and no verdicts."""
    archive: File | None = None
    """A folder for the pictures that get one of `archive_verdicts`, and those verdicts. None: not kept."""
    archive_bytes: Memory = 10 * 2**30
    """What the archive may hold; beyond it the oldest pictures are deleted."""
    archive_verdicts: Annotated[frozenset[Verdict], NoDecode, BeforeValidator(_several)] = frozenset(
        {"REVIEW", "NG"}
    )
    """Separated by commas or spaces."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _one_image_fits_the_queue(self) -> Self:
        if self.max_image_bytes + AROUND_IMAGE > self.max_queued_bytes:
            raise ValueError(
                f"max_queued_bytes must be at least max_image_bytes + {AROUND_IMAGE}: forms and messages are "
                "larger than their image"
            )
        return self

    @model_validator(mode="after")
    def _each_address_has_one_door(self) -> Self:
        given = [*self.http, *self.grpc, *([self.admin] if self.admin else [])]
        fixed = [address for address in given if address.path or address.port]  # port 0 is another each time
        if twice := [address for address in fixed if fixed.count(address) > 1]:
            raise ValueError(f"the address {twice[0]} is given twice: each door needs its own")
        return self

    @model_validator(mode="after")
    def _certificates_are_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key must be given together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        return self

    @model_validator(mode="after")
    def _nobody_gets_in_by_accident(self) -> Self:
        reachable = [address for address in (*self.http, *self.grpc) if not address.is_local]
        if reachable and not (self.tokens or self.tls_client_ca or self.open_to_anyone):
            raise ValueError(
                f"other machines can reach {reachable[0]}, and anyone would get in: give --tokens or "
                "--tls-client-ca, or --open-to-anyone to allow it"
            )
        return self


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Names that look like settings but are none, such as misspelt ones."""
    known = {f"DRD_{name.upper()}" for name in Settings.model_fields} | {"DRD_TOKEN"}  # which clients read
    return sorted(
        name for name in environment if name.upper().startswith("DRD_") and name.upper() not in known
    )
