"""What a worker does: jobs, one after the other, from its channel."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter

import numpy as np

from export.bundle import (
    FrameFailed,
    FrameStatistics,
    Geometry,
    Region,
    Size,
    heatmap_png,
    mask_png,
    overlay_png,
    parse_manifest,
    read,
)
from service.errors import ServiceError
from service.workers.channel import Bytes, Channel, DoesNotFit, Head
from service.workers.image import ImageLimits, decode, decode_rgb, preview_jpeg

Reply = tuple[Head, Sequence[Bytes]]
"""What is sent back: a head, and the payload in parts."""
_ALLOWANCE_AFTER_DECODE = 4
"""Factor on the CPU time: the image was decoded in time before, and encoding takes longer."""
REGION = np.dtype([(field.name, "<f8" if field.name == "peak" else "<u4") for field in fields(Region)])
"""A region as it is sent, in binary: there may be thousands."""
_numbers = attrgetter(*(field.name for field in fields(Region)))
_manifest = lru_cache(maxsize=64)(parse_manifest)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits per image: CPU time, and bytes of memory in addition to a worker's at its start."""

    seconds: float
    bytes: int


def _decode(head: Head, payload: memoryview, limits: ImageLimits) -> Reply:
    started = time.monotonic()
    geometry = Geometry(**head["geometry"])
    decoded = decode(bytes(payload), geometry, declared=head["declared"], limits=limits)
    facts = {
        "width": decoded.size.width,
        "height": decoded.size.height,
        "sha256": decoded.sha256,
        "statistics": decoded.statistics,
    }
    return facts | {"spent": [time.monotonic() - started]}, [
        np.ascontiguousarray(decoded.pixels).data.cast("B")
    ]


def _read(head: Head, payload: memoryview, limits: ImageLimits) -> Reply:
    height, width = head["map"]
    heatmap = np.frombuffer(payload, np.float32, height * width).reshape(height, width)
    ends = heatmap.nbytes + head["manifest"]
    manifest, image = _manifest(bytes(payload[heatmap.nbytes : ends])), payload[ends:]
    raw_score, size = float.fromhex(head["raw_score"]), Size(head["width"], head["height"])
    started = time.monotonic()
    finding, scores = read(
        heatmap, raw_score, FrameStatistics(**head["statistics"]), manifest, head["guard_band"], size
    )
    ended = time.monotonic()
    pictures = dict[str, Bytes]()
    if "heatmap" in head["parts"]:
        pictures["heatmap"] = heatmap_png(scores)
    else:
        pictures["scores"] = scores.data.cast("B")
    if "mask" in head["parts"]:
        pictures["mask"] = mask_png(scores, size)
    if "overlay" in head["parts"]:
        pictures["overlay"] = overlay_png(decode_rgb(bytes(image), limits), scores)
    pictures["regions"] = np.array(list(map(_numbers, finding.regions)), REGION).tobytes()
    facts = {
        "finding": replace(finding, regions=()),
        "pictures": {part: len(png) for part, png in pictures.items()},
        "spent": [ended - started, time.monotonic() - ended],
    }
    return facts, list(pictures.values())


def _preview(head: Head, payload: memoryview, limits: ImageLimits) -> Reply:
    return {"spent": []}, [preview_jpeg(decode_rgb(bytes(payload), limits), head["side"])]


_WORK: dict[str, Callable[[Head, memoryview, ImageLimits], Reply]] = {
    "decode": _decode,
    "read": _read,
    "preview": _preview,
}


def serve(channel: Channel, bounds: Bounds, limits: ImageLimits) -> None:
    """Answers jobs until the service ends. SIGPROF ends this process when an image takes too long."""
    channel.send({"process": os.getpid()})
    while True:
        head, payload = channel.receive()
        allowance = 1 if head["do"] == "decode" else _ALLOWANCE_AFTER_DECODE
        signal.setitimer(signal.ITIMER_PROF, allowance * bounds.seconds)
        try:
            facts, parts = _WORK[head["do"]](head, payload, limits)
        except (ServiceError, FrameFailed) as error:
            facts, parts = _failure(type(error).__name__, str(error))
        except MemoryError:
            facts, parts = _failure("TooLarge", "the image needs more memory than is allowed")
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.give_back()
        nonce = {"nonce": head["nonce"]}
        try:
            channel.send(facts | nonce, parts)
        except DoesNotFit:
            too_large, _ = _failure("InspectionFailed", "the answer is larger than there is room for")
            channel.send(too_large | nonce)


def _failure(name: str, detail: str) -> Reply:
    return {"error": name, "detail": detail}, ()
