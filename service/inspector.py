"""The one way from a request to its verdict, behind every door.

    inspect ──▶ admission ──▶ decode ──▶ slot (queue, engine) ──▶ read ──▶ answer
    event loop                workers    engine's thread          workers  event loop

A frame goes from thread to thread: the event loop starts it and gets it back, nothing in between.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle, FrameFailed, Prediction, TrustedKey, heatmap_png, mask_png, read
from service.admission import Admission, Holding
from service.catalog import Catalog, Start
from service.decoders import open_decoders
from service.errors import DeadlinePassed, InspectionFailed, ServiceError
from service.inspection import Inspection, Part, Picture, Request
from service.lane import Frame, Stage
from service.life import Life
from service.metrics import Metrics
from service.settings import Settings
from service.slot import Slot
from service.workers import Workers

_logger = logging.getLogger(__name__)


class Inspector:
    """Owns the workers and the engine slot. `inspect` is called on the event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        start: Start = Bundle.start,
        trusted: TrustedKey | None = None,
    ) -> None:
        self._metrics = metrics
        self._default_deadline = settings.default_deadline_ms / 1000
        self._decoders = open_decoders(settings)
        self._workers = Workers(settings.workers)
        self._slot = Slot(self._follow, settings.engine_hang_seconds)
        self.catalog = Catalog(settings, self._slot, metrics, start, trusted)
        self.life = Life(self.catalog, self._slot, metrics)
        self._admission = Admission(
            max_frames=settings.max_queued_frames,
            max_bytes=settings.max_queued_bytes,
            workers=settings.workers,
        )

    def hold(self) -> AbstractContextManager[Holding]:
        """Where a door accounts for the bytes of a request, while they arrive and until it is answered."""
        return self._admission.hold()

    async def warm_up(self) -> None:
        """Returns when the first frame finds everything waiting for it."""
        await asyncio.to_thread(self._decoders.start)

    async def inspect(self, request: Request) -> Inspection:
        """The verdict on one image, or a ServiceError. Cancelling it frees the frame's place at once."""
        self.life.check()
        lane = self.catalog.lane(request.product, request.version)
        answer = asyncio.get_running_loop().create_future()
        order = request.deadline or request.arrived + self._default_deadline
        frame = Frame(request, lane, order, answer, since=request.arrived)
        with self._admission.admitted(frame):
            self._workers.submit(order, partial(_guarded, self._decode, frame))
            try:
                async with asyncio.timeout_at(request.deadline):
                    inspection: Inspection = await answer
            except TimeoutError as error:
                raise DeadlinePassed("the deadline passed before there was an answer") from error
            finally:
                if answer.cancelled():
                    self._slot.withdraw(frame)
            now = time.monotonic()
            if request.deadline is not None and now > request.deadline:
                raise DeadlinePassed("the deadline passed before there was an answer")
        inspection.timings.total = now - request.arrived
        return inspection

    async def preview(self, image: bytes, side: int) -> bytes:
        """A JPEG of `image` with at most `side` pixels per side, made when no frame needs the worker."""
        made = Future[bytes]()

        def work() -> None:
            if not made.set_running_or_notify_cancel():
                return
            try:
                made.set_result(self._decoders.preview(image, side))
            except Exception as error:  # whoever asked hears of it
                _logger.warning("a preview failed", exc_info=True)
                made.set_exception(error)

        self._workers.submit(math.inf, work)
        return await asyncio.wrap_future(made)

    def close(self) -> None:
        """Ends the threads, once everything accepted has been answered."""
        self._slot.close()
        self._workers.close()
        self._decoders.close()

    def _decode(self, frame: Frame) -> None:
        request, lane = frame.request, frame.lane
        started = frame.begin(Stage.DECODE)
        frame.decoded = self._decoders.decode(request.image, lane.manifest.geometry, request.declared)
        frame.timings.decode = frame.end(started)
        lane.pace.decode.learn(frame.timings.decode)
        self._slot.offer(frame)

    def _follow(self, frame: Frame, prediction: Prediction, place: int) -> None:
        """After the engine, on its thread: hands the frame to the workers."""
        if place == 0:
            product = frame.lane.product
            self._metrics.batch_size.labels(product).observe(frame.batch_size)
            self._metrics.engine_busy_seconds.labels(product).inc(frame.timings.infer)
        heatmap, score = prediction.heatmap[place], float(prediction.score[place])
        self._workers.submit(frame.order, partial(_guarded, self._read, frame, heatmap, score))

    def _read(self, frame: Frame, heatmap: NDArray[np.float32], raw_score: float) -> None:
        lane, decoded, timings = frame.lane, frame.decoded, frame.timings
        assert decoded is not None
        size = decoded.width, decoded.height
        guard_band = lane.predictor.guard_band
        started = frame.begin(Stage.POST)
        reading = read(heatmap, raw_score, decoded.statistics, lane.manifest, guard_band, size)
        timings.post = frame.end(started)
        pictures = self._pictures(frame.request, reading.pixel_scores, size)
        timings.encode = frame.end(frame.since)
        lane.pace.post.learn(timings.post + timings.encode)
        frame.settle(
            Inspection(
                product=lane.product,
                version=lane.version,
                bundle_digest=lane.digest,
                engine=lane.predictor.engine_id,
                reading=reading,
                raw_threshold=lane.manifest.thresholds.image.threshold,
                guard_band=guard_band,
                min_area=lane.manifest.min_area,
                sent=frame.request.image,
                image=decoded,
                parts=frame.request.parts,
                pictures=pictures,
                timings=timings,
                batch_size=frame.batch_size,
            )
        )

    def _pictures(
        self, request: Request, pixel_scores: NDArray[np.float32], size: tuple[int, int]
    ) -> dict[Part, Picture]:
        pictures = dict[Part, Picture]()
        if "heatmap" in request.parts:
            height, width = pixel_scores.shape
            pictures["heatmap"] = Picture(width, height, heatmap_png(pixel_scores))
        if "mask" in request.parts:
            pictures["mask"] = Picture(*size, mask_png(pixel_scores, size))
        if "overlay" in request.parts:
            # Decoded a second time: keeping every frame's own pixels in the queue could fill the memory.
            pictures["overlay"] = Picture(*size, self._decoders.overlay(request.image, pixel_scores))
        return pictures


def _guarded(stage: Callable[..., None], frame: Frame, *given: object) -> None:
    """Runs a stage; its failure is the frame's and no other's."""
    if frame.left:
        return
    try:
        stage(frame, *given)
    except ServiceError as error:
        frame.settle(error)
    except FrameFailed as error:
        _logger.error("%s: %s", frame.lane.product, error)
        frame.settle(InspectionFailed(str(error)))
    except Exception:  # the boundary to faults of our own
        _logger.exception("a frame of %s failed", frame.lane.product)
        frame.settle(InspectionFailed("the service failed on this frame"))
