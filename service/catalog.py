"""Which product versions are on disk, which are loaded, and which one serves.

`refresh` loads and unloads versions to follow the models folder. A new version is loaded beside the old one
and takes over when its golden frames have passed; if it fails, the old one keeps serving. What serves gives
way to a lower version, or to none, only when it was removed: when two scans in a row did not find it.
Products don't wait for each other. Only the loading itself runs outside the event loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

from export.bundle import BundleError, TrustedKey
from service.errors import NotFound, NotServing
from service.folder import Found, found_at, scan
from service.lane import Lane
from service.logs import LogOnce
from service.metrics import Metrics
from service.product import Product
from service.settings import Settings
from service.slot import Slots
from service.threads import run_in_daemon_thread
from service.version import Start, Version, free

_LOAD_SECONDS = 20.0
"""After which others are loaded beside a version: it may hang."""
_UNLISTED = 0
"""The number of a version that stands, FAILED, for all of a product whose folder can't be listed."""
_logger = logging.getLogger(__name__)


class Catalog:
    """The products of one models folder."""

    def __init__(
        self, settings: Settings, slots: Slots, metrics: Metrics, start: Start, trusted: TrustedKey | None
    ) -> None:
        self._start = start
        self._folder, self._engine = settings.models, settings.engine
        self._trusted = trusted
        self._keep_old_seconds = settings.keep_old_seconds
        self._slots, self._metrics = slots, metrics
        metrics.versions = self.versions
        self._products = dict[str, Product]()
        self._log_once = LogOnce()
        self._following = dict[str, asyncio.Task[None]]()
        """By product: each is followed in a task of its own, since loading a version may take minutes, or
        never return."""
        self._loading = asyncio.Semaphore()
        self._retiring = set[asyncio.Task[None]]()

    def products(self) -> list[Product]:
        """Sorted by name. Thread-safe: metrics are scraped in another thread."""
        return sorted(self._products.values(), key=lambda product: product.name)

    def product(self, name: str) -> Product:
        """Raises NotFound."""
        if name not in self._products:
            raise NotFound(f"there is no product {name!r}; /v1/products or ListProducts lists them")
        return self._products[name]

    def versions(self) -> list[Version]:
        """All known versions, by product, newest first."""
        return [version for product in self.products() for version in product.newest_first]

    def __contains__(self, product: str) -> bool:
        return product in self._products

    @property
    def ready(self) -> bool:
        """Whether at least one product can be inspected."""
        return any(product.serving for product in self.products())

    def lane(self, product: str, version: int | None = None) -> Lane:
        """The lane that serves `product`, or that of a loaded `version`. Raises NotFound or NotServing."""
        known = self.product(product)
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
            if candidate.number == version and (lane := candidate.open_lane) is not None:
                return lane
        loaded = ", ".join(str(each.number) for each in known.versions if each.open_lane is not None)
        raise NotFound(f"version {version} of product {product!r} is not loaded, only {loaded or 'none'}")

    async def refresh(self, patience: float | None = None) -> None:
        """Loads new versions, unloads removed ones. Whatever the folder holds, it does not raise.

        Returns when all products are up to date, or none has been finished for `patience` seconds: loading
        the others goes on, and further calls skip them until it ends.
        """
        try:
            found = await run_in_daemon_thread(partial(scan, self._folder))
        except OSError as error:
            self._report(f"the models folder can't be read, loaded versions stay: {error}")
            return
        self._report("")
        for name in sorted((self._products.keys() | found.keys()) - self._following.keys()):
            versions = found.get(name, {})
            if isinstance(versions, str):
                if name in self._products and self._products[name].serving:
                    self._report(f"{name} can't be read, its loaded versions stay: {versions}", name)
                    continue
                versions = {_UNLISTED: versions}
            self._report("", name)
            self._following[name] = asyncio.create_task(self._follow(name, versions))
        while self._following:
            done, _ = await asyncio.wait(
                self._following.values(), timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            self._following = {name: task for name, task in self._following.items() if task not in done}
            await asyncio.gather(*done)  # raises what a bug has raised

    def _report(self, problem: str, product: str = "") -> None:
        """Logs a problem with a folder, once; "" for none."""
        if self._log_once.changed(problem, product) and problem:
            _logger.error(problem)

    async def close(self) -> None:
        """Unloads everything, once all accepted requests have been answered."""
        for following in self._following.values():
            following.cancel()
        for product in list(self._products.values()):
            self._remove(product)
        while self._retiring:
            await asyncio.gather(*self._retiring)

    async def _follow(self, name: str, on_disk: Mapping[int, Found]) -> None:
        """Makes one product what the last scan found."""
        if name not in self._products:
            self._products[name] = Product(name)
            self._metrics.begin_at_zero(name)
        product = self._products[name]
        removed = product.note_absent(on_disk)
        if not on_disk and removed == product.versions:
            if product.serving:
                _logger.warning("%s serves no longer: the models folder has no version of it", name)
            self._remove(product)
            return
        await self._recognise(product, on_disk)
        product.drop_outdated_failures(on_disk, removed)
        for version in product.candidates(self._folder, on_disk, removed):
            if await self._load(version):
                self._swap(product, version)
                break
        serving = product.serving
        # Looked at again: while another was loaded, it may have come back.
        if serving in removed and await run_in_daemon_thread(partial(found_at, serving.path)) is None:
            _logger.warning("%s serves no longer: no other version can replace the one removed", name)
            self._stop(product)

    async def _recognise(self, product: Product, on_disk: Mapping[int, Found]) -> None:
        """Keeps the serving version loaded if its files were only copied again."""
        serving = product.serving
        if serving is None or serving.number not in on_disk:
            return
        found = on_disk[serving.number]
        if product.knows(serving.number, found):  # it needs no new look
            return
        if await run_in_daemon_thread(partial(serving.is_unchanged, self._trusted)):
            serving.found = found

    async def _load(self, version: Version) -> bool:
        try:
            async with self._turn():
                lane = await run_in_daemon_thread(
                    partial(version.open, self._trusted, self._start, self._engine)
                )
        except BundleError as error:
            version.fail(error)
            _logger.error("%s version %d is FAILED: %s", version.product, version.number, error)
            return False
        except Exception as error:  # native runtimes raise anything: it fails this version only
            version.fail(error)
            _logger.exception("%s version %d is FAILED", version.product, version.number)
            return False
        self._slots.of(lane).add(lane)
        version.lane, version.state, version.reason = lane, "READY", ""
        _logger.info("%s version %d is READY on %s", version.product, version.number, lane.engine)
        for engine, reason in version.skipped.items():
            _logger.info("%s version %d does not use %s: %s", version.product, version.number, engine, reason)
        return True

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One version is loaded at a time, as that takes all cores; but one that takes too long gives its
        turn up."""
        await self._loading.acquire()
        turn = ExitStack()
        turn.callback(self._loading.release)
        late = asyncio.get_running_loop().call_later(_LOAD_SECONDS, turn.close)
        try:
            yield
        finally:
            late.cancel()
            turn.close()  # does nothing if it has been given up

    def _swap(self, product: Product, version: Version) -> None:
        before, product.serving = product.serving, version
        product.unload_replaced()  # only the last one before is kept for a while
        if before is not None:
            self._retire(before)

    def _remove(self, product: Product) -> None:
        product.versions = [version for version in product.versions if version.state != "FAILED"]
        self._stop(product)
        if not product.versions:
            del self._products[product.name]

    def _stop(self, product: Product) -> None:
        """Stops serving, and releases replaced versions that are still kept."""
        serving, product.serving = product.serving, None
        if serving is not None:
            self._retire(serving)
        product.unload_replaced()

    def _retire(self, version: Version) -> None:
        version.state = "DRAINING"
        _logger.info("%s version %d is DRAINING", version.product, version.number)
        task = asyncio.create_task(self._unload(version))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _unload(self, version: Version) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(version.unloading.wait(), self._keep_old_seconds)
        version.unloading.set()
        lane = version.lane
        assert lane is not None
        await lane.emptied()
        if await asyncio.to_thread(self._slots.of(lane).remove, lane):  # a hanging engine can't be freed
            await asyncio.to_thread(free, lane)
        product = self._products[version.product]
        product.versions.remove(version)
        if not product.versions:
            del self._products[product.name]
