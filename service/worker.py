"""The worker: a confined process that does all work on a frame outside the engine, job by job.

    service ── asks for one ──▶ nursery ──fork──▶ worker ◀── jobs, over a channel of its own ──▶ service

An image that makes it loop, exhaust memory or crash ends only this process. The nursery has done all imports,
so a new worker starts within milliseconds.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from io import BytesIO
from operator import attrgetter

import numpy as np
import orjson
from PIL import Image

from export.bundle import (
    IMAGE_FORMATS,
    Finding,
    FrameFailed,
    FrameStatistics,
    Geometry,
    Region,
    heatmap_png,
    mask_png,
    overlay_png,
    parse_manifest,
    read,
)
from service.channel import Bytes, Channel, DoesNotFit, Head
from service.errors import ServiceError
from service.image import ImageLimits, decode, decode_rgb
from service.preview import preview_jpeg

Answer = tuple[Head, Sequence[Bytes]]
_ALLOWANCE_FOR_PICTURES = 4  # the image was decoded in time before, and encoding takes longer
REGION = np.dtype([(field.name, "<f8" if field.name == "peak" else "<u4") for field in fields(Region)])
"""A region as it is sent, in binary: there may be thousands."""
_numbers = attrgetter(*(field.name for field in fields(Region)))
_manifest = lru_cache(maxsize=64)(parse_manifest)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits per image: CPU time, and bytes of memory in addition to a worker's at its start."""

    seconds: float
    bytes: int


def _decode(head: Head, payload: memoryview, limits: ImageLimits) -> Answer:
    started = time.monotonic()
    geometry = Geometry(**head["geometry"])
    decoded = decode(bytes(payload), geometry, declared=head["declared"], limits=limits)
    facts = {
        "width": decoded.width,
        "height": decoded.height,
        "sha256": decoded.sha256,
        "statistics": decoded.statistics,
    }
    return facts | {"spent": [time.monotonic() - started]}, [
        np.ascontiguousarray(decoded.pixels).data.cast("B")
    ]


def _read(head: Head, payload: memoryview, limits: ImageLimits) -> Answer:
    height, width = head["map"]
    heatmap = np.frombuffer(payload, np.float32, height * width).reshape(height, width)
    ends = heatmap.nbytes + head["manifest"]
    manifest, image = _manifest(bytes(payload[heatmap.nbytes : ends])), payload[ends:]
    raw_score, size = float.fromhex(head["raw_score"]), (head["width"], head["height"])
    started = time.monotonic()
    reading = read(
        heatmap, raw_score, FrameStatistics(**head["statistics"]), manifest, head["guard_band"], size
    )
    ended, scores = time.monotonic(), reading.pixel_scores
    pictures = dict[str, Bytes]()
    if "heatmap" in head["parts"]:
        pictures["heatmap"] = heatmap_png(scores)
    else:
        pictures["scores"] = scores.data.cast("B")
    if "mask" in head["parts"]:
        pictures["mask"] = mask_png(scores, size)
    if "overlay" in head["parts"]:
        pictures["overlay"] = overlay_png(decode_rgb(bytes(image), limits), scores)
    pictures["regions"] = np.array(list(map(_numbers, reading.regions)), REGION).tobytes()
    facts = {
        "finding": {field.name: getattr(reading, field.name) for field in fields(Finding)} | {"regions": ()},
        "pictures": {part: len(png) for part, png in pictures.items()},
        "spent": [ended - started, time.monotonic() - ended],
    }
    return facts, list(pictures.values())


def _preview(head: Head, payload: memoryview, limits: ImageLimits) -> Answer:
    return {"spent": []}, [preview_jpeg(decode_rgb(bytes(payload), limits), head["side"])]


_WORK: dict[str, Callable[[Head, memoryview, ImageLimits], Answer]] = {
    "decode": _decode,
    "read": _read,
    "preview": _preview,
}


def _serve(channel: Channel, bounds: Bounds, limits: ImageLimits) -> None:
    """Answers jobs until the service ends. SIGPROF ends this process when an image takes too long."""
    channel.send({"process": os.getpid()})
    while True:
        head, payload = channel.receive()
        allowance = 1 if head["do"] == "decode" else _ALLOWANCE_FOR_PICTURES
        signal.setitimer(signal.ITIMER_PROF, allowance * bounds.seconds)
        try:
            answer = _WORK[head["do"]](head, payload, limits)
        except (ServiceError, FrameFailed) as error:
            answer = _failure(type(error).__name__, str(error))
        except MemoryError:
            answer = _failure("TooLarge", "the image needs more memory than is allowed")
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.give_back()
        number = {"number": head["number"]}
        try:
            channel.send(answer[0] | number, answer[1])
        except DoesNotFit:
            too_large, _ = _failure("InspectionFailed", "the answer is larger than there is room for")
            channel.send(too_large | number)


def _failure(name: str, detail: str) -> Answer:
    return {"error": name, "detail": detail}, ()


def _confine(most: int) -> None:
    """Limits memory to `most` more bytes, and forbids new files, sockets, processes and core dumps."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # without further imports
        data = int(statm.read().split()[5]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_DATA, data + most),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _rehearse() -> None:
    """Runs every format and step once, so that each fork has their imports and set-up done."""
    limits = ImageLimits(pixels=10_000, side=100, frames=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [(kind, mode) for kind in IMAGE_FORMATS for mode in ("L", "RGB", "P")]
    for kind, mode in [*pictures, ("MPO", "RGB"), ("TIFF", "LAB")]:
        buffer = BytesIO()
        picture = Image.new("RGB" if (kind, mode) == ("JPEG", "P") else mode, (40, 40))
        more = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {"exif": exif.tobytes()}
        picture.save(buffer, kind, **more)
        for filter_ in ("bilinear", "bilinear-point"):
            decode(buffer.getvalue(), Geometry(32, 32, filter_), declared=None, limits=limits)
        overlay_png(decode_rgb(buffer.getvalue(), limits), np.zeros((32, 32), np.float32))
        preview_jpeg(decode_rgb(buffer.getvalue(), limits), 20)


def main(nursery: socket.socket) -> None:
    """The nursery: forks a worker for every socket and memory received, until the service closes its end."""
    Image.MAX_IMAGE_PIXELS = None  # the service has its own limit, a setting
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: exit statuses are not needed
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which still has frames to answer
        signal.signal(number, signal.SIG_IGN)
    _rehearse()
    while True:
        message, descriptors, _, _ = socket.recv_fds(nursery, 4096, 2)
        if not descriptors:
            return
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        nursery.close()
        given = orjson.loads(message)
        bounds = Bounds(**given["bounds"])
        own = Channel(socket.socket(fileno=descriptors[0]), descriptors[1])
        _confine(bounds.bytes)
        try:
            _serve(own, bounds, ImageLimits(**given["limits"]))
        except (EOFError, ConnectionError):
            os._exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
