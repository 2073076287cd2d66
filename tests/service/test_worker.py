"""Workers give the same results as this process would: decoded images, readings, pictures."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from export.bundle import (
    FrameFailed,
    Size,
    frame_statistics,
    heatmap_png,
    mask_png,
    overlay_png,
    read,
)
from service.values import PARTS, Decoded, Part, PngPicture, Rendered
from service.workers.channel import LARGE
from service.workers.image import decode, decode_rgb
from tests.service.images import encoded
from tests.service.working import BODY, GEOMETRY, LIMITS, SOURCE, Working, working


@pytest.fixture(scope="module")
def work() -> Iterator[Working]:
    with working() as one:
        yield one


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(heatmap=arrays(np.float32, (32, 64), elements=FLOATS), raw_score=FLOATS, brightness=st.floats(0, 1))
def test_reading_is_the_same_to_the_bit_in_a_worker(
    work: Working, heatmap: NDArray[np.float32], raw_score: float, brightness: float
) -> None:
    statistics = frame_statistics(np.full((32, 64, 3), int(255 * brightness), np.uint8), SOURCE)
    decoded = Decoded(np.zeros((32, 64, 3), np.uint8), SOURCE, "", statistics)

    def ask(parts: frozenset[Part]) -> Rendered:
        return work.read(heatmap, raw_score, decoded, parts)

    there, scores = ask(frozenset(PARTS)), ask(frozenset({"mask"})).heatmap

    guard_band = work.lane.predictor.guard_band
    finding, pixel_scores = read(heatmap, raw_score, statistics, work.lane.manifest, guard_band, SOURCE)
    assert there.finding == finding
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (32, 64)
    assert scores.tobytes() == pixel_scores.tobytes()
    assert there.heatmap == there.pictures["heatmap"].png
    assert there.pictures == {
        "heatmap": PngPicture(Size(64, 32), heatmap_png(pixel_scores)),
        "mask": PngPicture(SOURCE, mask_png(pixel_scores, SOURCE)),
        "overlay": PngPicture(SOURCE, overlay_png(decode_rgb(BODY, LIMITS), pixel_scores)),
    }


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails(work: Working, number: float) -> None:
    decoded = work.decoded(BODY)
    heatmap = np.zeros((32, 64), np.float32)
    heatmap[3, 4] = number

    with pytest.raises(FrameFailed, match="NaN or infinite"):
        work.read(heatmap, 0.1, decoded)
    with pytest.raises(FrameFailed, match="NaN or infinite"):
        work.read(np.zeros((32, 64), np.float32), number, decoded)
    assert work.read(np.zeros((32, 64), np.float32), 0.1, decoded).pictures == {}


_IMAGE = Image.linear_gradient("L").resize(SOURCE).convert("RGB")
_RARE = {
    "two images, as phones write": encoded(_IMAGE, "MPO", save_all=True, append_images=[_IMAGE]),
    "CIELAB": encoded(Image.new("LAB", SOURCE, (120, 140, 90)), "TIFF"),
    "16 bits": encoded(Image.new("I;16", SOURCE, 40_000), "TIFF"),
    "CMYK": encoded(_IMAGE.convert("CMYK"), "JPEG"),
    "a palette": encoded(_IMAGE.convert("P"), "PNG"),
}


@pytest.mark.parametrize("body", [BODY, *_RARE.values()], ids=["grey", *_RARE])
def test_decoding_is_the_same_in_a_worker(work: Working, body: bytes) -> None:
    there = work.decoded(body)
    here = decode(body, GEOMETRY, declared=None, limits=LIMITS)

    assert np.array_equal(there.pixels, here.pixels)
    assert (there.size, there.sha256) == (here.size, here.sha256)
    assert there.statistics == here.statistics


def test_a_preview_is_small(work: Working) -> None:
    with Image.open(BytesIO(work.run(work.pool.preview(BODY, 30)))) as preview:
        assert (preview.format, preview.size) == ("JPEG", (30, 20))


def test_large_images_pass_and_give_their_memory_back(work: Working) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    body = encoded(Image.fromarray(noise), "BMP")
    heatmap = np.zeros((32, 64), np.float32)

    decoded = work.decoded(body)
    after_decoding = shared_bytes()
    overlay = work.read(heatmap, 0.1, decoded, frozenset({"overlay"}), body).pictures["overlay"]
    after_overlay = shared_bytes()

    assert min(len(body), len(overlay.png)) > LARGE
    assert decoded.size == overlay.size == (2000, 2000)
    assert max(after_decoding, after_overlay) < LARGE
    work.level(7)


def shared_bytes() -> int:
    """Bytes in use of the memory shared with workers."""
    names = [name for name in Path("/proc/self/fd").iterdir() if "memfd:worker" in str(name.resolve())]
    assert names
    return sum(512 * name.stat().st_blocks for name in names)
