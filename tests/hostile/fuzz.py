"""`make fuzz MINUTES=5`: inputs made to reach new lines of the image reader or the manifest reader.

Whatever they raise but their own errors, an abort in a decoder too, ends the run with the input that did it.
What was found interesting is kept in the folder and is where the next run begins.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["PIL", "service", "export", "training"]):
    from PIL import Image

    from export.bundle import BundleError, Geometry
    from export.bundle.manifest import parse_manifest
    from service.errors import ServiceError
    from service.workers.image import ImageLimits, decode

from tests.bundles import make_bundle
from tests.hostile.images import good_pictures

_LIMITS = ImageLimits(pixels=1_000_000, side=20_000, images=4)
_GEOMETRY = Geometry(32, 32)


def image(data: bytes) -> None:
    with suppress(ServiceError):
        decode(data, _GEOMETRY, declared=None, limits=_LIMITS)


def manifest(data: bytes) -> None:
    with suppress(BundleError):
        parse_manifest(data)


def good_manifests() -> dict[str, bytes]:
    with TemporaryDirectory() as models:
        return {"manifest": (make_bundle(Path(models)) / "manifest.json").read_bytes()}


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], dict[str, bytes]]]] = {
    "images": (image, good_pictures),
    "manifests": (manifest, good_manifests),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--folder", type=Path, default=Path("var/fuzz"))
    given = parser.parse_args()
    target, seeds = TARGETS[given.target]
    folder: Path = given.folder / given.target
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in seeds().items():
        (folder / name).write_bytes(body)
    Image.MAX_IMAGE_PIXELS = None
    seconds = max(1, round(60 * given.minutes))
    options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=60", "-rss_limit_mb=6000"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={given.folder}/", str(folder)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
