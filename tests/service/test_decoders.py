"""Decoders as processes: what ends one harms nobody else. Real processes, real images."""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.bundle import Geometry
from service.decoder import Bounds
from service.decoders import Decoders, InProcesses, InThreads
from service.errors import TooLarge, UnlikeDeclared, UnreadableImage
from service.image import ImageLimits
from tests.e2e.serving import wait_until
from tests.service.images import encoded, plain

GEOMETRY = Geometry(32, 64)
LIMITS = ImageLimits(pixels=40_000_000, side=40_000, frames=4)
MEBIBYTE = 2**20


@pytest.fixture
def processes() -> Iterator[InProcesses]:
    decoders = InProcesses(LIMITS, Bounds(seconds=30, bytes=2048 * MEBIBYTE), count=1)
    decoders.start()
    yield decoders
    decoders.close()


def test_processes_and_threads_give_the_same(processes: InProcesses) -> None:
    body = encoded(Image.linear_gradient("L").resize((300, 200)), "JPEG")
    scores = np.linspace(0, 1, 32 * 64, dtype=np.float32).reshape(32, 64)
    both: tuple[Decoders, ...] = (processes, InThreads(LIMITS))

    inside, outside = (decoders.decode(body, GEOMETRY, "image/jpeg") for decoders in both)

    assert np.array_equal(inside.pixels, outside.pixels)
    assert (inside.width, inside.height, inside.sha256) == (outside.width, outside.height, outside.sha256)
    assert inside.statistics == outside.statistics
    assert processes.overlay(body, scores) == InThreads(LIMITS).overlay(body, scores)


def test_images_larger_than_the_shared_memory_pass_too(processes: InProcesses) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    body = encoded(Image.fromarray(noise), "BMP")
    overlay = processes.overlay(body, np.zeros((32, 64), np.float32))

    assert min(len(body), len(overlay)) > 8 * MEBIBYTE
    assert processes.decode(body, GEOMETRY, None).width == 2000
    assert processes.decode(plain(7), GEOMETRY, None).pixels[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("body", "declared", "failure"),
    [
        (b"text", None, UnreadableImage),
        (plain(1), "image/jpeg", UnlikeDeclared),
        (plain(1, (40_001, 1)), None, TooLarge),
    ],
)
def test_failures_are_told_as_they_are(
    processes: InProcesses, body: bytes, declared: str | None, failure: type[Exception]
) -> None:
    with pytest.raises(failure):
        processes.decode(body, GEOMETRY, declared)


def test_a_decoder_that_was_killed_is_replaced(processes: InProcesses) -> None:
    before = the_decoder()
    os.kill(before, signal.SIGKILL)

    assert processes.decode(plain(9), GEOMETRY, None).pixels[0, 0, 0] == 9
    assert the_decoder() != before


def test_a_good_image_outlives_decoders_that_were_killed_while_they_waited() -> None:
    several = InProcesses(LIMITS, Bounds(seconds=30, bytes=2048 * MEBIBYTE), count=3)
    try:
        several.start()
        for decoder in decoders_there_are(3):
            os.kill(decoder, signal.SIGKILL)
        assert several.decode(plain(9), GEOMETRY, None).pixels[0, 0, 0] == 9
    finally:
        several.close()


def test_what_tells_the_service_to_end_does_not_end_its_decoders(processes: InProcesses) -> None:
    (nursery,) = nurseries_of_this_process()
    before = the_decoder()
    for process in (nursery, before):
        os.kill(process, signal.SIGTERM)

    assert processes.decode(plain(9), GEOMETRY, None).pixels[0, 0, 0] == 9
    assert the_decoder() == before


def test_without_its_nursery_it_starts_another(processes: InProcesses) -> None:
    (nursery,) = nurseries_of_this_process()
    for process in (nursery, the_decoder()):
        os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, nursery, os.WEXITED | os.WNOWAIT)

    assert processes.decode(plain(9), GEOMETRY, None).pixels[0, 0, 0] == 9
    assert nurseries_of_this_process() != [nursery]


def test_time_is_bounded() -> None:
    decoders = InProcesses(LIMITS, Bounds(seconds=0.2, bytes=2048 * MEBIBYTE), count=1)
    try:
        with pytest.raises(TooLarge, match="takes more than"):
            decoders.decode(run_length_bitmap(4000, 4000), GEOMETRY, None)
        assert decoders.decode(plain(9), GEOMETRY, None).width == 32
    finally:
        decoders.close()


def test_memory_is_bounded() -> None:
    decoders = InProcesses(LIMITS, Bounds(seconds=30, bytes=64 * MEBIBYTE), count=1)
    try:
        with pytest.raises(TooLarge, match="memory"):
            decoders.decode(plain(1, (5000, 5000)), GEOMETRY, None)
        assert decoders.decode(plain(9), GEOMETRY, None).width == 32
    finally:
        decoders.close()


def test_a_decoder_can_open_nothing(processes: InProcesses) -> None:
    limits = Path(f"/proc/{the_decoder()}/limits").read_text(encoding="ascii")

    for name in ("Max open files", "Max file size", "Max processes", "Max core file size"):
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.removeprefix(name).split()[:2] == ["0", "0"]


def run_length_bitmap(width: int, height: int) -> bytes:
    """An 8-bit BMP in run lengths of one: it is unpacked in Python, slowly."""
    rows = (b"\x01\x00" * width + b"\x00\x00") * height
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return head + info + palette + rows


def nurseries_of_this_process() -> list[int]:
    return [child for child in _children(os.getpid()) if "service.decoder" in _command(child)]


def the_decoder() -> int:
    (decoder,) = decoders_there_are(1)
    return decoder


def decoders_there_are(count: int) -> list[int]:
    """All of them, once those of tests before have ended."""

    def decoders() -> list[int]:
        return [child for nursery in nurseries_of_this_process() for child in _children(nursery)]

    wait_until(lambda: len(decoders()) == count)
    return decoders()


def _children(process: int) -> list[int]:
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for one in lists for child in one.read_text(encoding="ascii").split())


def _command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
