"""The decoder: a process that turns encoded images into network inputs, one at a time, and can do no more.

    service ── asks for one ──▶ nursery ──fork──▶ decoder ◀── images, over a socket of its own ──▶ worker

An image that makes it loop, grow or abort ends this process and nothing else. The nursery has done all
imports, so that the next decoder is there within milliseconds.
"""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO

import numpy as np
import orjson
from PIL import Image

from export.bundle import IMAGE_FORMATS, Geometry, overlay_png
from service.channel import Channel, Head
from service.console.preview import preview_jpeg
from service.errors import ServiceError
from service.image import ImageLimits, decode, decode_rgb

_ALLOWANCE_FOR_PICTURES = 4  # their image has been decoded in time before, and to encode takes longer


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one image may take: CPU time, and bytes over what a decoder has at its start."""

    seconds: float
    bytes: int


def _decode(head: Head, payload: bytes, limits: ImageLimits) -> tuple[Head, memoryview]:
    decoded = decode(payload, Geometry(**head["geometry"]), declared=head["declared"], limits=limits)
    facts = {"width": decoded.width, "height": decoded.height, "sha256": decoded.sha256}
    pixels = np.ascontiguousarray(decoded.pixels).data.cast("B")
    return facts | {"statistics": asdict(decoded.statistics)}, pixels


def _overlay(head: Head, payload: bytes, limits: ImageLimits) -> tuple[Head, bytes]:
    height, width = head["map"]
    scores = np.frombuffer(payload, np.float32, height * width).reshape(height, width)
    return {}, overlay_png(decode_rgb(payload[scores.nbytes :], limits), scores)


def _preview(head: Head, payload: bytes, limits: ImageLimits) -> tuple[Head, bytes]:
    return {}, preview_jpeg(decode_rgb(payload, limits), head["side"])


_WORK: dict[str, Callable[[Head, bytes, ImageLimits], tuple[Head, bytes | memoryview]]] = {
    "decode": _decode,
    "overlay": _overlay,
    "preview": _preview,
}


def _serve(channel: Channel, bounds: Bounds, limits: ImageLimits) -> None:
    """Answers until the service has ended. An image that takes too long ends this process: SIGPROF."""
    channel.send({}, b"")
    while True:
        head, payload = channel.receive()
        allowance = 1 if head["do"] == "decode" else _ALLOWANCE_FOR_PICTURES
        signal.setitimer(signal.ITIMER_PROF, allowance * bounds.seconds)
        try:
            answer = _WORK[head["do"]](head, payload, limits)
        except ServiceError as error:
            answer = {"error": type(error).__name__, "detail": str(error)}, b""
        except MemoryError:
            answer = {"error": "TooLarge", "detail": "the image needs more memory than there may be"}, b""
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.send(*answer)


def _confine(most: int) -> None:
    """From now on: `most` more bytes of memory, and no file, socket, process or core dump can be made."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # nothing to import any more
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
    """Runs every format and every step once: what they import and set up is then there after each fork."""
    limits = ImageLimits(pixels=10_000, side=100, frames=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in IMAGE_FORMATS:
        for mode in ("L", "RGB", "P"):
            buffer = BytesIO()
            picture = Image.new(mode, (40, 40))
            (picture.convert("RGB") if kind == "JPEG" else picture).save(buffer, kind, exif=exif.tobytes())
            for filter_ in ("bilinear", "bilinear-point"):
                decode(buffer.getvalue(), Geometry(32, 32, filter_), declared=None, limits=limits)
            overlay_png(decode_rgb(buffer.getvalue(), limits), np.zeros((32, 32), np.float32))
            preview_jpeg(decode_rgb(buffer.getvalue(), limits), 20)


def main(nursery: socket.socket) -> None:
    """Forks a decoder for every socket and memory that come, until nobody is there to send any."""
    Image.MAX_IMAGE_PIXELS = None  # the service has a limit of its own, which is a setting
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a decoder ended
    for number in (signal.SIGINT, signal.SIGTERM):  # for the service, which still has frames to answer
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
