"""The catalog follows the models folder, which is looked at only when a test says so."""

import errno
import math
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from export.bundle import Bundle, BundleError, Predictor
from export.bundle.manifest import CHECKSUM, MANIFEST
from export.bundle.signature import SigningKey
from service.app import Service
from service.errors import NotServing
from service.lane import Lane
from service.version import State
from tests.access.certificates import key_pair
from tests.bundles import edit_manifest, make_bundle
from tests.service.engines import Gate
from tests.service.folders import make_unreadable
from tests.service.inspecting import inspecting
from tests.service.loop import on_a_loop


@dataclass
class Failing(Gate):
    """Fails with `errors`, one per start, before it starts engines."""

    errors: list[BaseException] = field(default_factory=list)

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


@on_a_loop
async def test_an_engine_that_cannot_be_measured_is_closed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Lane) -> None:
        raise MemoryError

    monkeypatch.setattr(Lane, "measure", measure)
    gate = Gate()
    async with loaded(models, gate) as service:
        assert states(service) == [(1, "FAILED")]
        assert len(gate.closed) == 1


@on_a_loop
async def test_a_damaged_replacement_does_not_bring_an_older_version_back(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    newest = make_bundle(tmp_path)

    async with loaded(tmp_path) as service:
        catalog = service.inspector.catalog
        before = catalog.lane("tile")
        (newest / CHECKSUM).write_text("half copied")
        for _ in range(2):
            await catalog.refresh()
            assert catalog.lane("tile") is before
            assert states(service) == [(2, "READY"), (2, "FAILED")]
        assert CHECKSUM in catalog.versions()[1].reason
        assert shown(service, 2, "READY") == shown(service, 2, "FAILED") == 1

        newest.rename(tmp_path / "withdrawn")
        await catalog.refresh()
        await catalog.refresh()
        assert serving(service) == 1


@on_a_loop
async def test_a_replacement_that_is_repaired_takes_over(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)

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


@on_a_loop
async def test_what_is_only_copied_anew_is_not_loaded_again(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)

    async with loaded(tmp_path) as service:
        before = service.inspector.catalog.lane("tile")
        shutil.copytree(bundle, tmp_path / "copy")
        shutil.rmtree(bundle)
        (tmp_path / "copy").rename(bundle)
        os.utime(bundle / MANIFEST, (0, 0))
        await service.inspector.catalog.refresh()
        assert service.inspector.catalog.lane("tile") is before
        assert states(service) == [(1, "READY")]


@on_a_loop
async def test_a_version_is_removed_when_two_scans_do_not_find_it(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    newest = make_bundle(tmp_path)

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


@on_a_loop
async def test_a_removed_version_stops_also_where_no_other_can_replace_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (make_bundle(tmp_path) / CHECKSUM).write_text("half copied")
    newest = make_bundle(tmp_path)

    async with loaded(tmp_path) as service:
        newest.rename(tmp_path / "withdrawn")
        await service.inspector.catalog.refresh()
        assert serving(service) == 2
        await service.inspector.catalog.refresh()
        with pytest.raises(NotServing):
            serving(service)
        (tmp_path / "withdrawn").rename(newest)
        await service.inspector.catalog.refresh()
        assert serving(service) == 2
    assert "tile serves no longer: no other version can replace the one removed" in caplog.messages


@on_a_loop
async def test_a_product_that_never_served_is_forgotten_when_it_is_removed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / CHECKSUM).write_text("half copied")

    async with loaded(tmp_path) as service:
        catalog = service.inspector.catalog
        assert states(service) == [(1, "FAILED")]
        shutil.rmtree(bundle.parent)
        await catalog.refresh()
        await catalog.refresh()
        assert catalog.products() == []


@on_a_loop
async def test_a_product_is_removed_when_two_scans_do_not_find_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    make_bundle(models)

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
        await catalog.refresh()
        assert not catalog.ready
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == ["tile serves no longer: the models folder has no version of it"]


@on_a_loop
async def test_what_cannot_be_read_is_failed_and_says_why(tmp_path: Path) -> None:
    serves = make_bundle(tmp_path, version=2)

    async with loaded(tmp_path) as service:
        catalog = service.inspector.catalog
        for version in "13":
            (tmp_path / "tile" / version).mkdir()
            make_unreadable(tmp_path / "tile" / version)
        (tmp_path / "bolt").symlink_to("bolt")
        for _ in range(2):
            await catalog.refresh()
            assert states(service) == [(0, "FAILED"), (3, "FAILED"), (2, "READY")]
        assert shown(service, 3, "FAILED") == 1
        reasons = [version.reason for version in catalog.versions()]
        assert "Too many levels of symbolic links" in reasons[0]
        assert "File name too long" in reasons[1]

        (tmp_path / "tile" / "3").rename(tmp_path / "away")
        (tmp_path / "bolt").unlink()
        make_bundle(tmp_path, "bolt")
        make_unreadable(serves)
        await catalog.refresh()
        await catalog.refresh()
        assert states(service) == [(1, "READY"), (2, "READY"), (2, "FAILED")]


NO_ROOM = BundleError("no engine can be used (onnx-cuda-fp16: CUDA failure 2: out of memory)")


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError(), NO_ROOM], ids=repr
)
@on_a_loop
async def test_an_error_of_the_machine_is_tried_again_after_a_while(models: Path, error: Exception) -> None:

    async with loaded(models, Failing(errors=[error])) as service:
        await retried(service)


@on_a_loop
async def test_so_is_one_on_reading_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair(tmp_path)
    make_bundle(tmp_path / "models", key=SigningKey(private))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "later"))

    async with loaded(tmp_path / "models", trusted_key=public) as service:
        (tmp_path / "later").mkdir()
        await retried(service)


async def retried(service: Service) -> None:
    """Asserts that what FAILED is tried again after 30 s, not at once."""
    (failed,) = service.inspector.catalog.versions()
    await service.inspector.catalog.refresh()
    assert failed.state == "FAILED"
    failed.retry_at -= 30
    await service.inspector.catalog.refresh()
    assert (failed.state, failed.reason, serving(service)) == ("READY", "", 1)


@on_a_loop
async def test_a_version_that_was_tried_again_is_kept_as_any_other_when_it_is_replaced(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path)
    newest, gate = make_bundle(tmp_path), Failing()

    async with loaded(tmp_path, gate, keep_old_seconds=3600) as service:
        catalog = service.inspector.catalog
        gate.errors = [OSError(errno.EIO, "Input/output error")]
        newest.rename(tmp_path / "withdrawn")
        await catalog.refresh()
        await catalog.refresh()
        catalog.versions()[-1].retry_at -= 30
        await catalog.refresh()
        assert serving(service) == 1
        make_bundle(tmp_path, version=3)
        await catalog.refresh()
        await catalog.refresh()
        assert states(service) == [(3, "READY"), (1, "DRAINING")]
        assert catalog.lane("tile", 1).version == 1


class Panic(BaseException):
    """As the one of Rust code, of which there is some in every library that checks a bundle."""


@on_a_loop
async def test_a_panic_fails_its_version_only(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    async with loaded(tmp_path, Failing(errors=[Panic()])) as service:
        assert states(service) == [(1, "FAILED")]


@on_a_loop
async def test_a_bundle_that_is_wrong_is_not_tried_again(tmp_path: Path) -> None:
    (make_bundle(tmp_path) / "model.onnx").write_bytes(b"damaged")

    async with loaded(tmp_path) as service:
        (failed,) = service.inspector.catalog.versions()
        assert (failed.state, failed.retry_at) == ("FAILED", math.inf)


@on_a_loop
async def test_an_engine_s_pace_is_known_before_it_serves(models: Path) -> None:

    async with loaded(models) as service:
        paces = service.inspector.catalog.lane("tile").pace.infer.values()
        assert all(pace.seconds > 0 for pace in paces)


@dataclass
class Hanging(Failing):
    """Version 2 of `alpha` hangs while it is loaded."""

    release: threading.Event = field(default_factory=threading.Event)

    def start(self, bundle: Bundle, engine: str) -> Predictor:
        if (bundle.manifest.product, bundle.manifest.version) == ("alpha", 2):
            assert self.release.wait(30)
        return super().start(bundle, engine)


@on_a_loop
async def test_a_version_that_hangs_while_it_is_loaded_holds_up_no_other_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.catalog._LOAD_SECONDS", 0.1)
    gate = Hanging()
    make_bundle(tmp_path, "alpha")
    make_bundle(tmp_path, "tile", 2)
    async with loaded(tmp_path, gate) as service:
        catalog = service.inspector.catalog
        make_bundle(tmp_path, "alpha", 2)
        await catalog.refresh(patience=0)
        (tmp_path / "tile" / "2").rename(tmp_path / ".withdrawn")
        make_bundle(tmp_path, "tile", 1)
        while catalog.lane("tile").version != 1:
            await catalog.refresh(patience=0.05)
        assert catalog.lane("alpha").version == 1
        gate.release.set()
        await catalog.refresh()
        assert catalog.lane("alpha").version == 2


@on_a_loop
async def test_a_version_that_is_back_before_another_has_failed_goes_on(tmp_path: Path) -> None:
    gate = Hanging()
    newest = make_bundle(tmp_path, "alpha", 3)
    async with loaded(tmp_path, gate) as service:
        catalog = service.inspector.catalog
        before = catalog.lane("alpha")
        make_bundle(tmp_path, "alpha", 2)
        gate.errors = [BundleError("a golden frame deviates")]
        newest.rename(tmp_path / "withdrawn")
        await catalog.refresh()
        await catalog.refresh(patience=0)
        (tmp_path / "withdrawn").rename(newest)
        gate.release.set()
        await catalog.refresh()
        assert states(service) == [(3, "READY"), (2, "FAILED")]
        assert catalog.lane("alpha") is before


@dataclass
class Counting(Gate):
    """Counts the versions that are loaded at the same time."""

    under_way: int = 0
    max_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, bundle: Bundle, engine: str) -> Predictor:
        with self.lock:
            self.under_way += 1
            self.max_at_once = max(self.max_at_once, self.under_way)
        try:
            return super().start(bundle, engine)
        finally:
            with self.lock:
                self.under_way -= 1


@on_a_loop
async def test_versions_are_loaded_one_at_a_time(tmp_path: Path) -> None:
    names = [f"tile{number}" for number in range(6)]
    for name in names:
        make_bundle(tmp_path, name)
    gate = Counting()
    async with loaded(tmp_path, gate) as service:
        assert [product.state for product in service.inspector.catalog.products()] == ["READY"] * len(names)
    assert gate.max_at_once == 1


@on_a_loop
async def test_a_bundle_whose_files_were_away_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    away = tmp_path / "tile" / "1" / "model.onnx"
    away.rename(tmp_path / "model.onnx")
    async with loaded(tmp_path) as service:
        (version,) = service.inspector.catalog.versions()
        assert version.state == "FAILED"
        assert version.reason.endswith("model.onnx is missing")
        assert version.retry_at < math.inf


@on_a_loop
async def test_gauges_are_of_the_moment_they_are_asked_for(tmp_path: Path) -> None:
    """A scrape comes on a thread of its own: what the catalog had to keep up to date could lack a product."""
    make_bundle(tmp_path)
    async with loaded(tmp_path) as service:
        (version,) = service.inspector.catalog.versions()
        version.state = "DRAINING"
        assert shown(service, 1, "DRAINING") == 1
        assert shown(service, 1, "READY") == 0
