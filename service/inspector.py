"""The path from a request to its verdict, the same for every door.

inspect ──▶ admission ──▶ decode ──▶ slot (queue, engine) ──▶ read ──▶ answer
event loop                worker     engine's thread          worker   event loop
"""

import asyncio
import logging
import time

from export.bundle import FrameFailed, TrustedKey
from service.admission import Admission
from service.catalog import Catalog
from service.errors import DeadlinePassed, InspectionFailed, ServiceError
from service.lane import Pending, Progress
from service.metrics import Metrics
from service.readiness import Readiness
from service.settings import Settings
from service.slot import Slots
from service.values import Inspection, Request, Result, SentImage
from service.version import Start
from service.workers.workers import Workers

_logger = logging.getLogger(__name__)


class Inspector:
    """Owns the workers, the engine slots, the catalog and admission. Runs on the event loop only."""

    def __init__(
        self, settings: Settings, metrics: Metrics, start: Start, trusted: TrustedKey | None
    ) -> None:
        self._workers = Workers(settings)
        self._slots = Slots(metrics, settings.engine_hang_seconds)
        self.catalog = Catalog(settings, self._slots, metrics, start, trusted)
        self.readiness = Readiness(self.catalog, self._slots, metrics)
        self.admission = Admission(
            max_frames=settings.max_queued_frames,
            max_bytes=settings.max_queued_bytes,
            workers=settings.workers,
            default_deadline=settings.default_deadline_ms / 1000,
        )

    async def warm_up(self) -> None:
        """Starts the workers, so that the first request need not wait for it."""
        await self._workers.start()

    def check(self, product: str, version: int | None, deadline: float | None, *, overlay: bool) -> None:
        """Raises what would refuse a request now, before its image is received.

        It reserves no place: a request whose image never arrives would block it.
        """
        self.readiness.check()
        self.admission.check(self.catalog.lane(product, version), deadline, overlay=overlay)

    async def inspect(self, request: Request) -> Inspection:
        """The verdict on one image; raises ServiceError. Cancelling it frees its place at once."""
        self.readiness.check()
        lane = self.catalog.lane(request.product, request.version)
        overlay = "overlay" in request.parts
        order = self.admission.order(lane, request.arrived, request.deadline, overlay=overlay)
        predicted = asyncio.get_running_loop().create_future()
        pending = Pending(request, lane, order, time.monotonic(), predicted)
        with self.admission.admitted(pending):
            try:
                async with asyncio.timeout_at(request.deadline):  # the loop's clock is time.monotonic
                    inspection = await self._inspected(pending)
            except TimeoutError as error:
                raise DeadlinePassed("the deadline passed before there was an answer") from error
        inspection.result.timings.total = time.monotonic() - request.arrived
        return inspection

    async def preview(self, image: bytes, side: int) -> bytes:
        """A JPEG of `image` with at most `side` pixels per side, made when no request waits for a worker."""
        try:
            return await self._workers.preview(image, side)
        except ServiceError:
            _logger.warning("a preview failed", exc_info=True)
            raise

    async def close(self) -> None:
        """Ends the engines' threads and the workers, once all accepted requests have been answered."""
        await asyncio.to_thread(self._slots.close)
        await self._workers.close()

    async def _inspected(self, pending: Pending) -> Inspection:
        """Turns any failure into a ServiceError of this request only."""
        try:
            return await self._through_all_steps(pending)
        except ServiceError:
            raise
        except FrameFailed as error:
            _logger.error("%s: %s", pending.lane.product, error)
            raise InspectionFailed(str(error)) from error
        except Exception as error:  # a bug fails this request only
            _logger.exception("a frame of %s failed", pending.lane.product)
            raise InspectionFailed("the service failed on this frame") from error

    async def _through_all_steps(self, pending: Pending) -> Inspection:
        request, lane, timings = pending.request, pending.lane, pending.timings

        decoded = await self._workers.decode(pending)
        image = pending.decoded = decoded.made
        (timings.decode,) = decoded.spent
        pending.advance(Progress.QUEUE, *decoded.spent)

        predicted = await self._slots.of(lane).run(pending)
        timings.infer = predicted.seconds
        pending.advance(Progress.READ, predicted.seconds)

        read = await self._workers.read(pending, predicted)
        timings.post, timings.encode = read.spent
        pending.advance(Progress.READ, *read.spent)

        result = Result(
            product=lane.product,
            version=lane.version,
            bundle_digest=lane.digest,
            engine=lane.engine,
            finding=read.made.finding,
            raw_threshold=lane.manifest.thresholds.image.threshold,
            guard_band=lane.predictor.guard_band,
            size=image.size,
            sha256=image.sha256,
            timings=timings,
            batch_size=predicted.batch_size,
        )
        sent = SentImage(request.image, image.size, read.made.heatmap)
        return Inspection(result, request.parts, read.made.pictures, sent)
