"""The path from a request to its verdict, the same for every door.

inspect ──▶ admission ──▶ decode ──▶ slot (queue, engine) ──▶ read ──▶ answer
event loop                worker     engine's thread          worker   event loop
"""

import asyncio
import logging
import time
from contextlib import AbstractContextManager

from export.bundle import Bundle, FrameFailed, TrustedKey
from service.admission import Admission, Holding
from service.catalog import Catalog
from service.errors import DeadlinePassed, InspectionFailed, ServiceError
from service.lane import Frame, Stage
from service.life import Life
from service.metrics import Metrics
from service.settings import Settings
from service.slot import Slot
from service.values import Inspection, Request
from service.version import Start
from service.workers.front import Workers

_logger = logging.getLogger(__name__)


class Inspector:
    """Owns the workers, the engine slot, the catalog and admission. Runs on the event loop only."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        start: Start = Bundle.start,
        trusted: TrustedKey | None = None,
    ) -> None:
        self._workers = Workers(settings)
        self._slot = Slot(metrics, settings.engine_hang_seconds)
        self.catalog = Catalog(settings, self._slot, metrics, start, trusted)
        self.life = Life(self.catalog, self._slot, metrics)
        self._admission = Admission(
            max_frames=settings.max_queued_frames,
            max_bytes=settings.max_queued_bytes,
            workers=settings.workers,
            patience=settings.default_deadline_ms / 1000,
        )

    def hold(self) -> AbstractContextManager[Holding]:
        """Counts the bytes of a request while they arrive and until it is answered."""
        return self._admission.hold()

    async def warm_up(self) -> None:
        """Starts the workers, so that the first frame need not wait for it."""
        await self._workers.start()

    def check(self, product: str, version: int | None, deadline: float | None) -> None:
        """Raises what would refuse a frame now, before its image is received.

        It reserves no place: a frame whose image never arrives would block it.
        """
        self.life.check()
        self._admission.check(self.catalog.lane(product, version), deadline)

    async def inspect(self, request: Request) -> Inspection:
        """The verdict on one image; raises ServiceError. Cancelling it frees the frame's place at once."""
        self.life.check()
        lane = self.catalog.lane(request.product, request.version)
        order = self._admission.order(lane, request.arrived, request.deadline)
        predicted = asyncio.get_running_loop().create_future()
        frame = Frame(request, lane, order, request.arrived, predicted)
        with self._admission.admitted(frame):
            try:
                async with asyncio.timeout_at(request.deadline):  # the loop's clock is time.monotonic
                    inspection = await self._inspected(frame)
            except TimeoutError as error:
                raise DeadlinePassed("the deadline passed before there was an answer") from error
            request.check_deadline()
        inspection.timings.total = time.monotonic() - request.arrived
        return inspection

    async def preview(self, image: bytes, side: int) -> bytes:
        """A JPEG of `image` with at most `side` pixels per side, made when no frame waits for a worker."""
        try:
            return await self._workers.preview(image, side)
        except ServiceError:
            _logger.warning("a preview failed", exc_info=True)
            raise

    async def close(self) -> None:
        """Ends the engine's thread and the workers, once all accepted frames have been answered."""
        await asyncio.to_thread(self._slot.close)
        await self._workers.close()

    async def _inspected(self, frame: Frame) -> Inspection:
        """Turns any failure into a ServiceError of this frame only."""
        try:
            return await self._through_all_stages(frame)
        except ServiceError:
            raise
        except FrameFailed as error:
            _logger.error("%s: %s", frame.lane.product, error)
            raise InspectionFailed(str(error)) from error
        except Exception as error:  # a bug fails this frame only
            _logger.exception("a frame of %s failed", frame.lane.product)
            raise InspectionFailed("the service failed on this frame") from error

    async def _through_all_stages(self, frame: Frame) -> Inspection:
        request, lane, timings = frame.request, frame.lane, frame.timings

        decoded = await self._workers.decode(frame)
        (timings.decode,) = decoded.spent
        frame.decoded = decoded.made
        frame.pass_on(Stage.QUEUE, *decoded.spent)

        predicted = await self._slot.run(frame)
        timings.infer = predicted.seconds
        frame.pass_on(Stage.POST, predicted.seconds)

        read = await self._workers.read(frame, predicted)
        timings.post, timings.encode = read.spent
        frame.pass_on(Stage.POST, *read.spent)

        return Inspection(
            product=lane.product,
            version=lane.version,
            bundle_digest=lane.digest,
            engine=lane.predictor.engine_id,
            finding=read.made.finding,
            raw_threshold=lane.manifest.thresholds.image.threshold,
            guard_band=lane.predictor.guard_band,
            sent=request.image,
            image=frame.decoded,
            parts=request.parts,
            pictures=read.made.pictures,
            heatmap=read.made.heatmap,
            timings=timings,
            batch_size=predicted.batch_size,
        )
