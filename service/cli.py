"""drd-serve: answers for the products of a models folder, over HTTP and gRPC."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from pydantic import ValidationError

from export.bundle import Bundle
from service.app import Service, run
from service.listen import CannotListen
from service.logs import set_up_logs
from service.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM, 1 for a failure, 2 for misuse."""
    parser = _parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1]) or "settings"
        parser.error(f"--{name} (or DRD_{name.upper()}): {first['msg'].removeprefix('Value error, ')}")
    if not settings.models.is_dir():
        return _fail(f"there is no models folder {settings.models}")
    set_up_logs(settings.log_level)
    try:
        uvloop.run(run(settings, announce))
    except CannotListen as error:
        return _fail(str(error))
    return 0


def _fail(reason: str) -> int:
    print(f"drd-serve: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("drd-serve", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "--models", type=Path, metavar="MODELS_DIR", help="bundles: MODELS_DIR/PRODUCT/VERSION/"
    )
    parser.add_argument(
        "--http", action="append", metavar="ADDRESS", help="REST; may be repeated (default 127.0.0.1:8080)"
    )
    parser.add_argument(
        "--grpc", action="append", metavar="ADDRESS", help="gRPC; may be repeated (default 127.0.0.1:8081)"
    )
    parser.add_argument("--admin", metavar="ADDRESS", help="one more address for health and metrics only")
    parser.add_argument("--engine", metavar="auto|ID", help="default: the first that works here, best first")
    return parser


_EPILOG = """ADDRESS is HOST:PORT or unix:PATH. Every option may be given in the
environment instead, as DRD_MODELS, DRD_HTTP and so on (addresses separated by commas)."""


def announce(service: Service) -> None:
    """Tells a person where to go, and one line to try."""
    for title, addresses in (("HTTP", service.http), ("gRPC", service.grpc), ("admin", service.admin)):
        for address in addresses:
            shown = address if title == "gRPC" or address.path else f"http://{address}"
            print(f"{title:6} {shown}")
    versions = service.inspector.catalog.versions()
    for version in versions:
        engine = version.lane.predictor.engine_id if version.lane else version.reason
        print(f"       {version.product} version {version.number}: {version.state}, {engine}")
    if reason := service.inspector.life.why_not_ready:
        print(f"not ready: {reason}")
    web = next((address for address in service.http if address.port), None)
    lane = next((version.lane for version in versions if version.lane), None)
    if web and lane:
        url = f"http://{web}/v1/inspect?product={lane.product}&include=regions"
        print(f"try    curl --data-binary @{shlex.quote(str(_picture(lane.predictor.bundle)))} '{url}'")
    sys.stdout.flush()


def _picture(bundle: Bundle) -> Path:
    """A golden frame worth trying: a clear defect where there is one; as short as it can be written."""
    ranks = {"defective": 0, "pseudo-abnormal": 1}
    chosen = min(bundle.manifest.golden, key=lambda frame: ranks.get(frame.kind, 2))
    path = (bundle.path / chosen.file).absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
