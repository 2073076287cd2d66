"""The fork server, a process of its own: it has done all imports, and forks the workers."""

import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from io import BytesIO

import numpy as np
import orjson
from PIL import Image

from export.bundle import IMAGE_FORMATS, Geometry, overlay_png
from service.workers.channel import Channel
from service.workers.image import ImageLimits, decode, decode_rgb, preview_jpeg
from service.workers.worker import Bounds, serve


def _confine(room: int) -> None:
    """Limits memory to `room` more bytes, and forbids new files, sockets, processes and core dumps."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # without further imports
        data = int(statm.read().split()[5]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_DATA, data + room),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _rehearse() -> None:
    """Runs every format and step once, so that each fork has their imports and set-up done."""
    limits = ImageLimits(pixels=10_000, side=100, images=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    usual = [(format_, mode) for format_ in IMAGE_FORMATS for mode in ("L", "RGB", "P")]
    for format_, mode in [*usual, ("MPO", "RGB"), ("TIFF", "LAB")]:
        buffer = BytesIO()
        image = Image.new("RGB" if (format_, mode) == ("JPEG", "P") else mode, (40, 40))
        more = {"save_all": True, "append_images": [image]} if format_ == "MPO" else {"exif": exif.tobytes()}
        image.save(buffer, format_, **more)
        for filter_ in ("bilinear", "bilinear-point"):
            decode(buffer.getvalue(), Geometry(32, 32, filter_), declared=None, limits=limits)
        overlay_png(decode_rgb(buffer.getvalue(), limits), np.zeros((32, 32), np.float32))
        preview_jpeg(decode_rgb(buffer.getvalue(), limits), 20)


def _tell_end(process: int, channel: socket.socket) -> None:
    """Tells the service which signal has ended a worker."""
    ended = os.waitid(os.P_PIDFD, process, os.WEXITED)
    os.close(process)
    with channel, suppress(OSError):  # the service has closed its end
        if ended is not None and ended.si_code != os.CLD_EXITED:
            channel.send(bytes([ended.si_status]), socket.MSG_DONTWAIT)


def main(service: socket.socket) -> None:
    """Forks a worker for every socket and memory received, until the service closes its end. Keeps each
    socket until its worker has ended."""
    Image.MAX_IMAGE_PIXELS = None  # the service has its own limit, a setting
    for number in (signal.SIGINT, signal.SIGTERM):  # for the service, which still has requests to answer
        signal.signal(number, signal.SIG_IGN)
    _rehearse()
    workers = dict[int, socket.socket]()
    """By process descriptor, which is readable when the process has ended."""
    while True:
        ready = select.poll()  # select.select takes no descriptor above 1023
        for each in (service.fileno(), *workers):
            ready.register(each, select.POLLIN)
        readable = {descriptor for descriptor, _ in ready.poll()}
        for process in workers.keys() & readable:
            _tell_end(process, workers.pop(process))
        if service.fileno() not in readable:
            continue
        message, descriptors, _, _ = socket.recv_fds(service, 4096, 2)
        if not descriptors:
            return
        channel, memory = socket.socket(fileno=descriptors[0]), descriptors[1]
        if process := os.fork():
            workers[os.pidfd_open(process)] = channel
            os.close(memory)
            continue
        service.close()
        for process, other in workers.items():
            os.close(process)
            other.close()
        given = orjson.loads(message)
        bounds = Bounds(**given["bounds"])
        own = Channel(channel, memory)
        _confine(bounds.bytes)
        try:
            serve(own, bounds, ImageLimits(**given["limits"]))
        except (EOFError, ConnectionError):
            os._exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
