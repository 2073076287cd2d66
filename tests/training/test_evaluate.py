"""Pixel figures and the masks they come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.datasets import DatasetError, Sample
from training.evaluate import Scored, evaluate
from training.geometry import Geometry, Size

GEOMETRY = Geometry(32, 32)


def sample(folder: Path, name: str, mask: NDArray[np.bool_] | None) -> Sample:
    """A black image of 320×320 and its mask."""
    image = folder / f"{name}.png"
    Image.new("L", (320, 320)).save(image)
    if mask is None:
        return Sample(image, name, "good")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return Sample(image, name, "crack", folder / f"{name}_mask.png")


def scored(heatmap: NDArray[np.float32]) -> Scored:
    """Of an image of 320×320, whose score is the map's largest value."""
    frame = np.zeros((32, 32, 3), np.uint8)
    return Scored(Path("any.png"), Size(320, 320), frame, heatmap, float(heatmap.max()))


def test_a_defect_too_thin_for_the_network_counts_as_no_good_pixels(tmp_path: Path) -> None:
    wide, thin = np.zeros((320, 320), np.bool_), np.zeros((320, 320), np.bool_)
    wide[100:200, 100:200] = True
    thin[160] = True
    samples = [sample(tmp_path, "good", None), sample(tmp_path, "wide", wide), sample(tmp_path, "thin", thin)]
    found = [np.zeros((32, 32), np.float32) for _ in samples]
    found[1][10:20, 10:20] = 1
    found[2][16] = 1
    quality = evaluate(samples, map(scored, found), GEOMETRY).quality
    assert quality.n_masks_lost == 1
    assert (quality.image_auroc, quality.pixel_auroc, quality.aupro) == (1.0, 1.0, 1.0)

    quality = evaluate(samples[:2], map(scored, found[:2]), GEOMETRY).quality
    assert quality.n_masks_lost is None


def test_a_defect_without_a_mask_is_in_no_pixel_figure(tmp_path: Path) -> None:
    wide = np.zeros((320, 320), np.bool_)
    wide[100:200, 100:200] = True
    samples = [sample(tmp_path, "good", None), sample(tmp_path, "wide", wide)]
    samples.append(replace(samples[1], name="elsewhere", mask=None))
    found = [np.zeros((32, 32), np.float32) for _ in samples]
    found[1][10:20, 10:20] = 1
    found[2][:5] = 2
    quality = evaluate(samples, map(scored, found), GEOMETRY).quality
    assert (quality.image_auroc, quality.pixel_auroc, quality.pixel_ap) == (1.0, 1.0, 1.0)


def test_a_mask_that_is_not_its_image_s_is_refused(tmp_path: Path) -> None:
    other = sample(tmp_path, "other", np.ones((320, 300), np.bool_))
    with pytest.raises(DatasetError, match="has not the shape of its picture"):
        evaluate([other], [scored(np.zeros((32, 32), np.float32))], GEOMETRY)
