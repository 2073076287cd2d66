"""Who decodes: processes that are no loss, or the worker's own thread."""

import atexit
import logging
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from export.bundle import FrameStatistics, Geometry, overlay_png
from service.channel import Channel, Head, shared_memory
from service.console.preview import preview_jpeg
from service.decoder import Bounds
from service.errors import NotServing, ServiceError, TooLarge, UnlikeDeclared, UnreadableImage
from service.image import ImageLimits, decode, decode_rgb
from service.inspection import Decoded
from service.settings import MEBIBYTE, Settings

_PATIENCE = 20  # times its CPU time: a decoder that waits this long for a core has been forgotten
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # what forks may have no threads
    # The memory of a frame is kept for the next, up to 64 MiB: to have it from the system anew, page by page,
    # takes 40 % of a megapixel's time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MEBIBYTE),
    "MALLOC_TRIM_THRESHOLD_": str(64 * MEBIBYTE),
}
_FAILURES: dict[str, type[ServiceError]] = {
    failure.__name__: failure for failure in (TooLarge, UnlikeDeclared, UnreadableImage)
}
_logger = logging.getLogger(__name__)


class Decoders(Protocol):
    """Called from the workers' threads. The failures are those of service/image.py."""

    def start(self) -> None:
        """Returns when the first image finds a decoder waiting."""

    def decode(self, body: bytes, geometry: Geometry, declared: str | None) -> Decoded:
        """The network's input."""

    def overlay(self, body: bytes, pixel_scores: NDArray[np.float32]) -> bytes:
        """The sent image with its heat, as PNG."""

    def preview(self, body: bytes, side: int) -> bytes:
        """The sent image with at most `side` pixels per side, as JPEG."""

    def close(self) -> None:
        """Ends what was started, once nothing is under way."""


def open_decoders(settings: Settings) -> Decoders:
    limits = ImageLimits(settings.max_image_pixels, settings.max_image_side, settings.max_image_frames)
    if settings.decode == "thread":
        return InThreads(limits)
    return InProcesses(limits, Bounds(settings.decode_seconds, settings.decode_bytes), settings.workers)


class InThreads:
    """Decodes where it is called: nothing bounds an image's time and memory, and its abort is everybody's."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits

    def start(self) -> None:
        pass

    def decode(self, body: bytes, geometry: Geometry, declared: str | None) -> Decoded:
        return decode(body, geometry, declared=declared, limits=self._limits)

    def overlay(self, body: bytes, pixel_scores: NDArray[np.float32]) -> bytes:
        return overlay_png(decode_rgb(body, self._limits), pixel_scores)

    def preview(self, body: bytes, side: int) -> bytes:
        return preview_jpeg(decode_rgb(body, self._limits), side)

    def close(self) -> None:
        pass


class InProcesses:
    """As many decoders as there are workers, each a process that ends with the image it fails on."""

    def __init__(self, limits: ImageLimits, bounds: Bounds, count: int) -> None:
        self._seconds = bounds.seconds
        self._wanted = orjson.dumps({"limits": asdict(limits), "bounds": asdict(bounds)})
        self._idle = SimpleQueue[Channel | None]()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def start(self) -> None:
        for _ in range(self._count):
            self._idle.put(self._idle.get() or self._new())

    def decode(self, body: bytes, geometry: Geometry, declared: str | None) -> Decoded:
        head, pixels = self._ask({"do": "decode", "geometry": asdict(geometry), "declared": declared}, body)
        shape = geometry.height, geometry.width, 3
        return Decoded(
            np.frombuffer(pixels, np.uint8).reshape(shape),
            head["width"],
            head["height"],
            head["sha256"],
            FrameStatistics(**head["statistics"]),
        )

    def overlay(self, body: bytes, pixel_scores: NDArray[np.float32]) -> bytes:
        return self._ask({"do": "overlay", "map": pixel_scores.shape}, pixel_scores.tobytes() + body)[1]

    def preview(self, body: bytes, side: int) -> bytes:
        return self._ask({"do": "preview", "side": side}, body)[1]

    def close(self) -> None:
        for _ in range(self._count):
            if decoder := self._idle.get():
                decoder.close()

    def _ask(self, head: Head, payload: bytes) -> tuple[Head, bytes]:
        """The answer, or the failure it names.

        An image on which a decoder ends gets a second one, made for it: an image before may have left the
        first damaged, and others that wait may be gone, too.
        """
        for fresh in (False, True):
            decoder, started = self._idle.get(), time.monotonic()
            try:
                if fresh and decoder is not None:
                    decoder.close()
                    decoder = None
                decoder = decoder or self._new()
                decoder.send(head, payload)
                return _checked(*decoder.receive())
            except (EOFError, ConnectionError, BlockingIOError, orjson.JSONDecodeError):
                assert decoder is not None
                decoder.close()  # the process ends by its time limit, if it has not
                decoder = None
                _logger.warning("a decoder ended over an image")
                if time.monotonic() - started >= self._seconds:
                    raise TooLarge(f"decoding the image takes more than {self._seconds:g} s") from None
            finally:
                self._idle.put(decoder)
        raise UnreadableImage("the image is damaged: its decoder ended")

    def _new(self) -> Channel:
        """A decoder that waits for its first image; NotServing when there can't be one."""
        own, other = socket.socketpair()
        timeout = struct.pack("@ll", math.ceil(_PATIENCE * self._seconds), 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            own.setsockopt(socket.SOL_SOCKET, option, timeout)
        memory = shared_memory()
        decoder = Channel(own, memory)
        try:
            _nursery.fork(other, memory, self._wanted)
            other.close()
            decoder.receive()
        except (EOFError, OSError) as error:
            decoder.close()
            _logger.exception("there is no decoder")
            raise NotServing("there is no decoder", reason="decoder", retry_after=1) from error
        finally:
            other.close()
            os.close(memory)
        return decoder


class Nursery:
    """The process that decoders are forked from; one for all, started when first needed."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        atexit.register(self.close)

    def fork(self, other: socket.socket, memory: int, wanted: bytes) -> None:
        """Has the other end of a channel served by a new process; OSError when that can't be."""
        with self._changing:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._open()
            assert self._channel is not None
            socket.send_fds(self._channel, [wanted], [other.fileno(), memory])

    def close(self) -> None:
        """Decoders that work go on."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            self._process.wait()

    def _open(self) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            number = other.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "service.decoder", str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )


_nursery = Nursery()


def _checked(head: Head, payload: bytes) -> tuple[Head, bytes]:
    if name := head.get("error"):
        raise _FAILURES.get(name, UnreadableImage)(head["detail"])
    return head, payload
