"""Facts of one deployment: `DRD_*` in the environment, or the options of `drd-serve`, which go before."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from export.bundle import cores_allowed

MEBIBYTE = 2**20


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
        """Whether only programs of this machine can reach it."""
        try:
            return bool(self.path) or self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:  # a name, which may mean anything
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


def _address(given: object) -> object:
    return Address.parse(given) if isinstance(given, str) else given


def _addresses(given: object) -> object:
    return tuple(given.replace(",", " ").split()) if isinstance(given, str) else given


OneAddress = Annotated[Address, BeforeValidator(_address)]
Addresses = Annotated[tuple[OneAddress, ...], NoDecode, BeforeValidator(_addresses)]


def _cores() -> int:
    """A container's CPU quota may allow fewer than the node has."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(present, cores_allowed() or present)


class Settings(BaseSettings):
    """Read when made, never at import. Times end in their unit."""

    model_config = SettingsConfigDict(env_prefix="DRD_", frozen=True, extra="forbid")

    models: Path
    """The models folder: MODELS_DIR/PRODUCT/VERSION/ are bundles."""
    http: Addresses = (Address("127.0.0.1", 8080),)
    grpc: Addresses = (Address("127.0.0.1", 8081),)
    """Several addresses are separated by commas or spaces."""
    admin: OneAddress | None = None
    """One more address for health and metrics only."""
    tokens: Path | None = None
    """Who may ask: a file made by `drd-serve token`, read anew when it changes. None: whoever gets here."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files: with both, the TCP addresses of both doors speak TLS. Read anew when they change."""
    tls_client_ca: Path | None = None
    """PEM file of authorities: callers over TCP then need a certificate that one of them has signed."""
    open_to_anyone: bool = False
    """Listen where others can reach it with neither tokens nor client certificates."""
    trusted_key: Path | None = None
    """PEM file of a public key: bundles that its owner has not signed are refused."""
    engine: str = "auto"
    """An engine's id, or auto: the first in the manifest that passes its golden frames here."""

    takt_ms: PositiveFloat = 200
    """The line's budget per frame: an edge of every latency histogram lies exactly here."""
    default_deadline_ms: PositiveFloat = 1000
    """Where a frame without a deadline stands in the queue; it never expires."""
    max_image_bytes: PositiveInt = 64 * MEBIBYTE
    max_image_pixels: PositiveInt = 40_000_000
    max_image_side: PositiveInt = 32_768
    """Pixels of the longer side."""
    max_image_frames: PositiveInt = 16
    """Pictures in one file (pages of a TIFF, frames of an animated PNG); the first is inspected."""
    decode_seconds: PositiveFloat = 5
    """CPU time that decoding one image may take; four times that for pictures of it."""
    decode_bytes: PositiveInt = 1536 * MEBIBYTE
    """Memory that one image may take, over what a worker has at its start; 40 megapixels take 1 GiB."""
    max_queued_frames: PositiveInt = 256
    """Frames accepted and not yet answered, of each product version."""
    max_queued_bytes: PositiveInt = 512 * MEBIBYTE
    """Bytes of all requests together, over all products; bodies still being received included."""
    workers: PositiveInt = Field(default_factory=lambda: _cores() + 1)
    """Processes that decode images, read maps and encode pictures. One more than there are cores: while the
    answer of one waits for the event loop, its core has another to run."""
    engine_hang_seconds: PositiveFloat = 30
    """An engine busy with one batch for longer hangs: the service is no longer alive until it returns."""

    max_connections: PositiveInt = 1024
    """Per door. Beyond them the connection that has been idle for longest makes room; with none, 503."""
    max_url_bytes: PositiveInt = 8192
    max_head_bytes: PositiveInt = 32_768
    """Of a request's URL; of its header fields in all. gRPC: of a call's metadata."""
    max_head_fields: PositiveInt = 100
    max_form_parts: PositiveInt = 32
    """Of a multipart/form-data body."""
    head_seconds: PositiveFloat = 10
    """A request's head has to arrive within this time from its first byte; and a connection's handshake."""
    receive_seconds: PositiveFloat = 10
    """A request's body has to arrive within this time."""
    answer_seconds: PositiveFloat = 30
    """An answer has to be taken within this time."""
    idle_seconds: PositiveFloat = 75
    """HTTP connections on which nothing happens are closed after this time."""
    max_calls: PositiveInt = 100
    """gRPC calls under way per connection."""

    stream_window: PositiveInt = 16
    """Unanswered frames per gRPC stream; beyond them the stream is not read."""
    max_connection_age_seconds: PositiveFloat = 1800
    """A gRPC connection is then asked to reconnect, so that new replicas get their share."""
    max_connection_age_grace_seconds: PositiveFloat = 30

    watch_seconds: PositiveFloat = 2
    """How often the models folder, tokens and certificates are looked at."""
    keep_old_seconds: Annotated[float, Field(ge=0)] = 10
    """How long a replaced version still answers requests that ask for it by `version`."""
    lame_duck_seconds: Annotated[float, Field(ge=0)] = 2
    """After SIGTERM: not ready any more, still serving, while the endpoint is withdrawn."""
    drain_seconds: PositiveFloat = 30
    """How long the end waits for accepted frames to be answered."""
    history_bytes: Annotated[int, Field(ge=0)] = 128 * MEBIBYTE
    """Pictures of the newest verdicts, kept in memory for the operator page; 0: neither they nor verdicts."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _one_image_fits_the_queue(self) -> Self:
        if self.max_image_bytes > self.max_queued_bytes:
            raise ValueError(
                "max_image_bytes is more than max_queued_bytes: such an image could never be accepted"
            )
        return self

    @model_validator(mode="after")
    def _certificates_are_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key need each other")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        return self

    @model_validator(mode="after")
    def _nobody_gets_in_by_accident(self) -> Self:
        reachable = [address for address in (*self.http, *self.grpc) if not address.is_local]
        if reachable and not (self.tokens or self.tls_client_ca or self.open_to_anyone):
            raise ValueError(
                f"others can reach {reachable[0]}, and anyone would get in: give --tokens or "
                "--tls-client-ca, or say --open-to-anyone"
            )
        return self
