"""The catalog follows the models folder, which is looked at only when a test says so."""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from export.bundle import Bundle, BundleError, Predictor
from export.bundle.manifest import MANIFEST, SEAL
from export.bundle.signature import SigningKey
from service.app import Service
from service.version import State
from tests.access.test_signature import key_pair
from tests.bundles import edit_manifest, make_bundle
from tests.service.engines import Gate
from tests.service.inspecting import inspecting
from tests.service.test_inspector import within


@dataclass
class Failing(Gate):
    """Fails with `errors`, one per start, before it starts engines."""

    errors: list[Exception] = field(default_factory=list)

    def start(self, bundle: Bundle, engine: str) -> Predictor:
        if self.errors:
            raise self.errors.pop()
        return super().start(bundle, engine)


@asynccontextmanager
async def loaded(models: Path, gate: Gate | None = None, **settings: Any) -> AsyncIterator[Service]:
    settings = {"watch_seconds": 3600, "keep_old_seconds": 0} | settings
    async with inspecting(models, gate or Gate(), **settings) as (service, _):
        yield service


def serving(service: Service) -> int:
    return service.inspector.catalog.lane("tile").version


def states(service: Service) -> list[tuple[int, State]]:
    return [(version.number, version.state) for version in service.inspector.catalog.versions()]


def shown(service: Service, version: int, state: State) -> float | None:
    labels = {"product": "tile", "version": str(version), "state": state}
    return service.metrics.registry.get_sample_value("drd_product_state", labels)


def test_a_damaged_replacement_does_not_bring_an_older_version_back(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    newest = make_bundle(tmp_path)

    async def work() -> None:
        async with loaded(tmp_path) as service:
            catalog = service.inspector.catalog
            before = catalog.lane("tile")
            (newest / SEAL).write_text("half copied")
            for _ in range(2):
                await catalog.refresh()
                assert catalog.lane("tile") is before
                assert states(service) == [(2, "READY"), (2, "FAILED")]
            assert SEAL in catalog.versions()[1].reason
            assert shown(service, 2, "READY") == shown(service, 2, "FAILED") == 1

            newest.rename(tmp_path / "withdrawn")
            await catalog.refresh()
            await catalog.refresh()
            assert serving(service) == 1

    within(30, work())


def test_a_replacement_that_is_repaired_takes_over(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)

    async def work() -> None:
        async with loaded(tmp_path) as service:
            catalog = service.inspector.catalog
            before = catalog.lane("tile")
            manifest = (bundle / MANIFEST).read_bytes()
            (bundle / MANIFEST).write_bytes(b"{")
            await catalog.refresh()
            assert states(service) == [(1, "READY"), (1, "FAILED")]
            (bundle / MANIFEST).write_bytes(manifest)
            await catalog.refresh()
            assert states(service) == [(1, "READY")]
            assert catalog.lane("tile") is before

            edit_manifest(bundle, lambda facts: facts.update(min_area=7))
            await catalog.refresh()
            assert catalog.lane("tile").manifest.min_area == 7

    within(30, work())


def test_what_is_only_copied_anew_is_not_loaded_again(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)

    async def work() -> None:
        async with loaded(tmp_path) as service:
            before = service.inspector.catalog.lane("tile")
            shutil.copytree(bundle, tmp_path / "copy")
            shutil.rmtree(bundle)
            (tmp_path / "copy").rename(bundle)
            os.utime(bundle / MANIFEST, (0, 0))
            await service.inspector.catalog.refresh()
            assert service.inspector.catalog.lane("tile") is before
            assert states(service) == [(1, "READY")]

    within(30, work())


def test_a_version_is_removed_when_two_scans_do_not_find_it(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    newest = make_bundle(tmp_path)

    async def work() -> None:
        async with loaded(tmp_path) as service:
            before = service.inspector.catalog.lane("tile")
            for _ in range(2):
                newest.rename(tmp_path / "withdrawn")
                await service.inspector.catalog.refresh()
                assert service.inspector.catalog.lane("tile") is before
                (tmp_path / "withdrawn").rename(newest)
                await service.inspector.catalog.refresh()
                assert service.inspector.catalog.lane("tile") is before

            newest.rename(tmp_path / "withdrawn")
            await service.inspector.catalog.refresh()
            await service.inspector.catalog.refresh()
            assert serving(service) == 1

    within(30, work())


def test_a_product_is_removed_when_two_scans_do_not_find_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_bundle(models)

    async def work() -> None:
        async with loaded(models) as service:
            catalog = service.inspector.catalog
            models.rename(tmp_path / "share")
            models.mkdir()  # where a share was mounted
            await catalog.refresh()
            assert states(service) == [(1, "READY")]
            models.rmdir()
            (tmp_path / "share").rename(models)
            await catalog.refresh()
            assert states(service) == [(1, "READY")]

            shutil.rmtree(models / "tile")
            await catalog.refresh()
            assert catalog.ready
            await catalog.refresh()
            assert not catalog.ready

    within(30, work())


NO_ROOM = BundleError("no engine can be used (onnx-cuda-fp16: CUDA failure 2: out of memory)")


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError(), NO_ROOM], ids=repr
)
def test_an_error_of_the_machine_is_tried_again_after_a_while(tmp_path: Path, error: Exception) -> None:
    make_bundle(tmp_path)

    async def work() -> None:
        async with loaded(tmp_path, Failing(errors=[error])) as service:
            await retried(service)

    within(30, work())


def test_so_is_one_on_reading_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair(tmp_path)
    make_bundle(tmp_path / "models", key=SigningKey(private))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "later"))

    async def work() -> None:
        async with loaded(tmp_path / "models", trusted_key=public) as service:
            (tmp_path / "later").mkdir()
            await retried(service)

    within(30, work())


async def retried(service: Service) -> None:
    """Asserts that what FAILED is tried again after 30 s, not at once."""
    (failed,) = service.inspector.catalog.versions()
    await service.inspector.catalog.refresh()
    assert failed.state == "FAILED"
    failed.retry_at -= 30
    await service.inspector.catalog.refresh()
    assert (failed.state, failed.reason, serving(service)) == ("READY", "", 1)


def test_a_bundle_that_is_wrong_is_not_tried_again(tmp_path: Path) -> None:
    (make_bundle(tmp_path) / "model.onnx").write_bytes(b"damaged")

    async def work() -> None:
        async with loaded(tmp_path) as service:
            (failed,) = service.inspector.catalog.versions()
            assert (failed.state, failed.retry_at) == ("FAILED", math.inf)

    within(30, work())
