"""drd-serve: inspects images with the products of a models folder, over HTTP and gRPC."""

import sys

if sys.platform != "linux":
    sys.exit("drd-serve needs Linux: elsewhere start it in a container, or on Windows in WSL 2")

import argparse
import atexit
import logging
import os
import resource
import shlex
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import uvloop
from pydantic import ValidationError

from export.bundle import Bundle, BundleError, print_in_any_encoding, program_version
from service.access.cli import main as token_main
from service.access.tokens import TokensError
from service.app import Service, run
from service.errors import ServiceError
from service.listen import CannotListen
from service.logs import set_up_logs, write
from service.settings import Settings, unknown_variables
from service.tls import TlsError

_DESCRIPTORS = 65_536
"""Enough, and few enough for libraries that go through all: a container may allow a billion."""
_PER_WORKER = 3
_RESERVE = 256  # descriptors for everything but connections and workers
_logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM, 1 for a failure, 2 for misuse."""
    _open_standard_streams()
    print_in_any_encoding()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["token"]:
        return token_main(arguments[1:])
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(str(part) for part in first["loc"][:1])
        variable = f"DRD_{name.upper()}"
        where = f"--{name.replace('_', '-')} (or {variable})" if name in options else variable
        parser.error((f"{where}: " if name else "") + first["msg"].removeprefix("Value error, "))
    if not os.path.isdir(settings.models):  # noqa: PTH112  # Path's raises, as where a parent is forbidden
        return _fail(f"there is no models folder {settings.models}")
    if settings.archive and not _is_writable_folder(settings.archive):
        return _fail(f"the archive {settings.archive} is not a folder that can be written to")
    set_up_logs(settings.log_level)
    if unknown := unknown_variables(os.environ):
        _logger.warning("not settings of drd-serve, so ignored: %s", ", ".join(unknown))
    _allow_descriptors(settings)
    status = 0
    try:
        uvloop.run(run(settings, announce))
    except (BundleError, CannotListen, ServiceError, TokensError, TlsError) as error:
        status = _fail(str(error))
    finally:
        _flush_errors()
    return _end(status)


def _is_writable_folder(path: Path) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK)  # noqa: PTH112  # as above


def _open_standard_streams() -> None:
    """Opens /dev/null where one is closed: otherwise a socket takes its number, which libuv aborts on."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # it gets the lowest free number
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _allow_descriptors(settings: Settings) -> None:
    """Raises the soft limit, usually 1024, so that `max_connections` is reached before it."""
    doors = sum(map(bool, (settings.http, settings.grpc, settings.admin)))
    needed = doors * settings.max_connections + _PER_WORKER * settings.workers + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = max(soft, min(hard, max(needed, _DESCRIPTORS)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        _logger.warning(
            "only %d open files are allowed, and %d may be needed: raise the hard limit (ulimit -Hn), or set "
            "a lower DRD_MAX_CONNECTIONS",
            soft,
            needed,
        )


def _flush_errors() -> None:
    """Drops what can't be written, such as to a full disk: Python would try again at its exit, and fail."""
    try:
        sys.stderr.flush()
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _end(status: int) -> NoReturn:
    """Ends the process, though a thread may still load an engine or run it: before Python 3.14, Python's own
    end unwinds that thread, and C++ then aborts the process."""
    atexit._run_exitfuncs()
    os._exit(status)


def _fail(reason: str) -> int:
    logging.shutdown()  # the reason is the last line
    print(f"drd-serve: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("drd-serve", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=program_version())
    parser.add_argument("--models", metavar="MODELS_DIR", help="bundles: MODELS_DIR/PRODUCT/VERSION/")
    parser.add_argument(
        "--http", action="append", metavar="ADDRESS", help="REST; may be repeated (default 127.0.0.1:8080)"
    )
    parser.add_argument(
        "--grpc", action="append", metavar="ADDRESS", help="gRPC; may be repeated (default 127.0.0.1:8081)"
    )
    parser.add_argument("--admin", metavar="ADDRESS", help="another address, for health and metrics only")
    parser.add_argument(
        "--tokens",
        metavar="FILE",
        help="tokens of the callers who may ask: see drd-serve token --help (default: anyone)",
    )
    for name, help_ in (
        ("certificate", "certificate chain, PEM; with --tls-key, TCP addresses use TLS"),
        ("key", "private key of the certificate, PEM"),
        ("client-ca", "certificate authorities, PEM; callers over TCP then need a certificate signed by one"),
    ):
        parser.add_argument(f"--tls-{name}", metavar="FILE", help=help_)
    parser.add_argument(
        "--open-to-anyone",
        action="store_true",
        default=None,
        help="listen on addresses that other machines reach without --tokens or --tls-client-ca",
    )
    parser.add_argument(
        "--trusted-key",
        metavar="FILE",
        help="public key, PEM: only bundles signed with its private key (drd-export --sign) are served",
    )
    parser.add_argument(
        "--archive", metavar="FOLDER", help="keep the pictures that are not OK, and their verdicts, there"
    )
    parser.add_argument("--engine", metavar="auto|ID", help="default auto: the best that works here")
    return parser


_EPILOG = """ADDRESS is HOST:PORT or unix:PATH; of a HOST with several addresses, the
first. Every option may also be set in the environment, as DRD_MODELS, DRD_HTTP
and so on (addresses separated by commas); the README names further settings.
Files of tokens and certificates are read again when they change. drd-serve
token makes tokens."""


def announce(service: Service) -> None:
    """Prints the addresses, the versions, and one curl line to try, where something can be printed."""
    lines = (*_addresses(service), *_versions(service), *_line_to_try(service))
    text = "".join(f"{line}\n" for line in lines).encode(sys.stdout.encoding, sys.stdout.errors or "strict")
    # On a thread of its own: if nobody reads (a full pipe, a paused terminal), the service goes on.
    threading.Thread(target=write, args=(sys.stdout.fileno(), text), daemon=True).start()


def _addresses(service: Service) -> Iterator[str]:
    scheme = "https" if service.tls else "http"
    for title, prefix, addresses in (
        ("HTTP", f"{scheme}://", service.http),
        ("gRPC", "", service.grpc),
        ("admin", "http://", service.admin),
    ):
        for address in addresses:
            shown = address if address.path else f"{prefix}{address}"
            yield f"{title:6} {shown}"


def _versions(service: Service) -> Iterator[str]:
    for version in service.inspector.catalog.versions():
        engine = version.engine or version.reason
        yield f"       {version.product} version {version.number}: {version.state}, {engine}"
    if reason := service.inspector.readiness.why_not_ready():
        yield f"not ready: {reason}"


def _line_to_try(service: Service) -> Iterator[str]:
    """A curl line, if there is a product and a TCP address."""
    addresses = [address for address in service.http if address.port]
    lanes = [version.lane for version in service.inspector.catalog.versions() if version.lane]
    if not addresses or not lanes:
        return
    address, lane = addresses[0], lanes[0]
    here = f"localhost:{address.port}" if address.host in ("0.0.0.0", "::") else address
    scheme = "https" if service.tls else "http"
    url = f"{scheme}://{here}/v1/inspect?product={lane.product}&include=regions"
    token = '-H "Authorization: Bearer $TOKEN" ' if service.access.needed else ""
    image = shlex.quote(str(_golden_image(lane.predictor.bundle)))
    yield f"try    curl {token}--data-binary @{image} '{url}'"


def _golden_image(bundle: Bundle) -> Path:
    """The path of the golden frame with the clearest defect; relative where possible, to be short."""
    ranks = {"defective": 0, "pseudo-abnormal": 1}
    chosen = min(bundle.manifest.golden, key=lambda frame: (ranks.get(frame.kind, 2), -frame.raw_score))
    path = (bundle.path / chosen.file).absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
