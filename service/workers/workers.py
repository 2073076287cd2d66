"""The workers as seen by the service: work on an image outside the engine, in processes that may crash. Their
answers are validated here."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import starmap

import numpy as np
import orjson
from pydantic import BaseModel, NonNegativeInt, PositiveInt

from export.bundle import MAX_INPUT_SIDE, Finding, FrameStatistics, Region, Size
from service.lane import Pending
from service.settings import Settings
from service.values import Decoded, EngineOutput, Part, PngPicture, Rendered
from service.workers.channel import Channel, Head
from service.workers.image import ImageLimits
from service.workers.job import Done
from service.workers.pool import Pool
from service.workers.starting import new_worker
from service.workers.worker import REGION, Bounds

_MAX_IMAGES = 16
"""Most images in one file: pages of a TIFF, frames of an animated PNG. The first is inspected."""
_ROOM = 16 * MAX_INPUT_SIDE**2  # bytes beside image or overlay: maps, their pictures, a manifest, regions


class Workers:
    """Called on the event loop. The request with the earliest `order` goes first. The paces of its lane learn
    how long each job took, messages included.

    Raises the errors of image.py, FrameFailed, InspectionFailed when workers die on a map, and
    NotServing when there is no worker.
    """

    def __init__(self, settings: Settings, start: Callable[[bytes, int], Channel] = new_worker) -> None:
        limits = ImageLimits(settings.max_image_pixels, settings.max_image_side, _MAX_IMAGES)
        bounds = Bounds(settings.decode_seconds, settings.decode_bytes)
        wanted = orjson.dumps({"limits": limits, "bounds": bounds})
        room = settings.max_image_bytes + 4 * settings.max_image_pixels + _ROOM
        self._pool = Pool(settings.workers, bounds.seconds, partial(start, wanted, room))
        self._previews = asyncio.Semaphore(max(1, settings.workers - 1))

    async def start(self) -> None:
        """Starts all workers."""
        await self._pool.start()

    async def decode(self, pending: Pending) -> Done[Decoded]:
        """The network's input; `spent` has one step."""
        request, geometry, pace = pending.request, pending.lane.manifest.geometry, pending.lane.pace.decode
        head = {"do": "decode", "geometry": geometry, "declared": request.declared}
        parse = partial(_decoded, (geometry.height, geometry.width, 3))
        return await self._pool.ask(
            pending.order, head, (request.image,), parse, decodes=True, learn=pace.learn
        )

    async def read(self, pending: Pending, predicted: EngineOutput) -> Done[Rendered]:
        """The finding and its pictures, of a decoded image; `spent` has two steps: reading, encoding.

        For an overlay, the image is decoded a second time: keeping the pixels of all that are queued could
        exhaust memory.
        """
        request, lane, decoded, heatmap = pending.request, pending.lane, pending.decoded, predicted.heatmap
        parts = request.parts
        overlay = pending.overlay
        head = {
            "do": "read",
            "map": heatmap.shape,
            "raw_score": predicted.score.hex(),  # JSON has no NaN
            "statistics": decoded.statistics,
            "manifest": len(lane.manifest_json),
            "guard_band": lane.predictor.guard_band,
            "width": decoded.size.width,
            "height": decoded.size.height,
            "parts": sorted(parts),
        }
        pixels = np.ascontiguousarray(heatmap, np.float32).data.cast("B")
        payload = pixels, lane.manifest_json, request.image if overlay else b""
        parse = partial(_read, heatmap.shape, decoded.size, parts - {"regions"})
        learn = lane.pace.reading(overlay=overlay).learn
        return await self._pool.ask(pending.order, head, payload, parse, decodes=overlay, learn=learn)

    async def preview(self, image: bytes, side: int) -> bytes:
        """A JPEG of `image` with at most `side` pixels per side, made when no request waits for a worker.

        One worker, if there are several, is always left to the requests.
        """
        head = {"do": "preview", "side": side}
        async with self._previews:
            asked = self._pool.ask(math.inf, head, (image,), _jpeg, decodes=True, learn=lambda _: None)
            return (await asked).made

    async def close(self) -> None:
        """Ends the workers."""
        await self._pool.close()


class _DecodedFacts(BaseModel):
    width: PositiveInt
    height: PositiveInt
    sha256: str
    statistics: FrameStatistics


class _ReadFacts(BaseModel):
    finding: Finding
    pictures: dict[str, NonNegativeInt]
    """Bytes of each, in the order of the payload; includes the regions, and the scores if no heatmap was
    asked for."""


def _decoded(shape: tuple[int, int, int], head: Head, payload: memoryview) -> Decoded:
    facts = _DecodedFacts.model_validate(head)
    pixels = np.frombuffer(payload, np.uint8).reshape(shape).copy()
    return Decoded(pixels, Size(facts.width, facts.height), facts.sha256, facts.statistics)


def _read(
    shape: tuple[int, int], source: Size, wanted: frozenset[Part], head: Head, payload: memoryview
) -> Rendered:
    facts, end = _ReadFacts.model_validate(head), 0
    if sum(facts.pictures.values()) != len(payload):
        raise ValueError("the lengths of the pictures do not add up")
    sent = dict[str, bytes]()
    for name, length in facts.pictures.items():
        start, end = end, end + length
        sent[name] = bytes(payload[start:end])
    of_map = Size(width=shape[1], height=shape[0])
    pictures = {
        part: PngPicture(of_map if part == "heatmap" else source, sent[part]) for part in sorted(wanted)
    }
    finding = replace(facts.finding, regions=_regions(shape, sent["regions"]))
    if "heatmap" in wanted:
        return Rendered(finding, pictures, sent["heatmap"])
    return Rendered(finding, pictures, np.frombuffer(sent["scores"], np.float32).reshape(shape))


def _regions(shape: tuple[int, int], sent: bytes) -> tuple[Region, ...]:
    regions = np.frombuffer(sent, REGION)
    if len(regions) > math.prod((side + 1) // 2 for side in shape):  # no two of them touch
        raise ValueError("there are more regions than the map has room for")
    if not np.isfinite(regions["peak"]).all():
        raise ValueError("a peak is not finite")
    return tuple(starmap(Region, regions.tolist()))


def _jpeg(head: Head, payload: memoryview) -> bytes:
    return bytes(payload)
