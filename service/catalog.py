"""Which product versions are on disk, which are loaded, and which one serves.

`refresh` loads and unloads versions to follow the models folder. A new version is loaded beside the old one
and takes over when its golden frames have passed; if it fails, the old one keeps serving. What serves gives
way to a lower version only when it was removed: when two scans in a row did not find it. Only the loading
itself runs outside the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from export.bundle import BundleError, TrustedKey
from service.errors import NotLoaded, NotServing
from service.folder import Fingerprint, scan
from service.lane import Lane
from service.logs import Troubles
from service.metrics import Metrics
from service.settings import Settings
from service.slot import Slot
from service.threads import in_daemon
from service.version import Start, Version, free

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Product:
    name: str
    versions: list[Version] = field(default_factory=list)
    serving: Version | None = None


class Catalog:
    """The products of one models folder."""

    def __init__(
        self, settings: Settings, slot: Slot, metrics: Metrics, start: Start, trusted: TrustedKey | None
    ) -> None:
        self._start = start
        self._folder, self._engine = settings.models, settings.engine
        self._trusted = trusted
        self._keep_old_seconds = settings.keep_old_seconds
        self._slot, self._metrics = slot, metrics
        self._products = dict[str, Product]()
        self._troubles = Troubles()
        self._retiring = set[asyncio.Task[None]]()

    def versions(self, product: str | None = None) -> list[Version]:
        """All known versions of all products or of one, newest first; NotLoaded for an unknown product."""
        names = sorted(self._products) if product is None else [product]
        return [
            version
            for known in map(self._known, names)
            for version in sorted(known.versions, key=lambda version: -version.number)
        ]

    def __contains__(self, product: str) -> bool:
        return product in self._products

    @property
    def ready(self) -> bool:
        """Whether at least one product can be inspected."""
        return any(product.serving for product in self._products.values())

    def lane(self, product: str, version: int | None = None) -> Lane:
        """The lane that serves `product`, or that of a loaded `version`. Raises NotLoaded or NotServing."""
        known = self._known(product)
        if version is None:
            chosen = known.serving
            if chosen is None or chosen.lane is None:
                raise NotServing(
                    f"product {product!r} has no version that serves; /v1/products says why",
                    reason="failed",
                    retry_after=5,
                )
            return chosen.lane
        for candidate in reversed(known.versions):
            if candidate.number == version and candidate.lane is not None:
                return candidate.lane
        loaded = ", ".join(str(each.number) for each in known.versions if each.lane is not None)
        raise NotLoaded(f"version {version} of product {product!r} is not loaded, only {loaded or 'none'}")

    def _known(self, product: str) -> Product:
        if product not in self._products:
            raise NotLoaded(f"there is no product {product!r}; /v1/products names those there are")
        return self._products[product]

    async def refresh(self) -> None:
        """Loads new versions, unloads removed ones. Whatever the folder holds, it does not raise."""
        try:
            found = await in_daemon(partial(scan, self._folder))
        except OSError as error:
            self._tell(f"the models folder can't be read, loaded versions stay: {error}")
            return
        self._tell("")
        for name in sorted(self._products.keys() | found.keys()):
            versions = found.get(name, {})
            if isinstance(versions, OSError):  # no permission, or a network share that is away
                self._tell(f"{name} can't be read, its loaded versions stay: {versions}", name)
            else:
                self._tell("", name)
                await self._follow(name, versions)

    def _tell(self, trouble: str, product: str = "") -> None:
        """Logs a trouble with a folder, "" for none."""
        if self._troubles.note(trouble, product) and trouble:
            _logger.error(trouble)

    async def close(self) -> None:
        """Unloads everything, once all accepted frames have been answered."""
        for product in list(self._products.values()):
            self._remove(product)
        while self._retiring:
            await asyncio.gather(*self._retiring)

    async def _follow(self, name: str, on_disk: Mapping[int, Fingerprint]) -> None:
        product = self._products.setdefault(name, Product(name))
        removed = _note_absent(product.versions, on_disk)
        if not on_disk and removed == product.versions:
            self._remove(product)
            return
        await self._recognise(product, on_disk)
        for failed in [v for v in product.versions if v.state == "FAILED"]:
            if failed in removed or on_disk.get(failed.number, failed.fingerprint) != failed.fingerprint:
                product.versions.remove(failed)
        serving = product.serving
        for number, fingerprint in sorted(on_disk.items(), reverse=True):
            if serving and number < serving.number and serving not in removed:
                break
            if serving and (serving.number, serving.fingerprint) == (number, fingerprint):
                break
            version = next((v for v in product.versions if (v.number, v.state) == (number, "FAILED")), None)
            if version is None:
                version = Version(name, number, self._folder / name / str(number), fingerprint)
                product.versions.append(version)
            elif time.monotonic() < version.retry_at:
                continue  # unchanged since it failed
            if await self._load(version):
                self._swap(product, version)
                break
        self._show(product)

    async def _recognise(self, product: Product, on_disk: Mapping[int, Fingerprint]) -> None:
        """Spares what serves a reload when its files were only copied anew."""
        serving = product.serving
        if serving is None or serving.number not in on_disk:
            return
        found = on_disk[serving.number]
        # A fingerprint already known, of the serving or of a FAILED version, needs no new look.
        if any((v.number, v.fingerprint) == (serving.number, found) for v in product.versions):
            return
        if await in_daemon(partial(serving.is_unchanged, self._trusted)):
            serving.fingerprint = found

    async def _load(self, version: Version) -> bool:
        self._show(self._products[version.product])
        try:
            lane = await in_daemon(partial(version.open, self._trusted, self._start, self._engine))
        except BundleError as error:
            version.fail(error)
            _logger.error("%s version %d is FAILED: %s", version.product, version.number, error)
            return False
        except Exception as error:  # native runtimes raise anything: it fails this version only
            version.fail(error)
            _logger.exception("%s version %d is FAILED", version.product, version.number)
            return False
        self._slot.add(lane)
        version.lane, version.state, version.reason = lane, "READY", ""
        _logger.info(
            "%s version %d is READY on %s", version.product, version.number, lane.predictor.engine_id
        )
        for engine, reason in lane.predictor.skipped.items():
            _logger.info("%s version %d does not use %s: %s", version.product, version.number, engine, reason)
        return True

    def _swap(self, product: Product, version: Version) -> None:
        before, product.serving = product.serving, version
        for other in product.versions:
            if other.state == "DRAINING":  # only the last one before is kept for a while
                other.hurry.set()
        if before is not None:
            self._retire(before)

    def _remove(self, product: Product) -> None:
        product.versions = [version for version in product.versions if version.state != "FAILED"]
        serving, product.serving = product.serving, None
        if serving is not None:
            self._retire(serving)
        for version in product.versions:
            version.hurry.set()
        if not product.versions:
            self._forget(product)

    def _retire(self, version: Version) -> None:
        version.state = "DRAINING"
        self._show(self._products[version.product])
        task = asyncio.create_task(self._unload(version))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _unload(self, version: Version) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(version.hurry.wait(), self._keep_old_seconds)
        lane, version.lane = version.lane, None
        assert lane is not None
        await lane.emptied()
        if await asyncio.to_thread(self._slot.remove, lane):  # a hanging engine can't be freed
            await asyncio.to_thread(free, lane)
        product = self._products[version.product]
        product.versions.remove(version)
        self._show(product)
        if not product.versions:
            self._forget(product)

    def _forget(self, product: Product) -> None:
        del self._products[product.name]
        self._metrics.forget(product.name)

    def _show(self, product: Product) -> None:
        self._metrics.show(product.name, product.versions)


def _note_absent(versions: list[Version], on_disk: Container[int]) -> list[Version]:
    """Notes which are absent; returns those that were absent in the scan before, too."""
    removed = [version for version in versions if version.absent and version.number not in on_disk]
    for version in versions:
        version.absent = version.number not in on_disk
    return removed
