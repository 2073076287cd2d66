"""Lays out the embedded example in the MVTec AD layout: solar cells under electroluminescence.

The images are those of the `elpv-dataset` package (Buerhop-Lutz et al., 2018; CC BY-NC-SA 4.0). Product
`elpv-mono`: monocrystalline cells, good where the experts' defect probability is 0, defective where it is 1.
"""

import argparse
import csv
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

_TRAIN = 468  # of 588 good cells, which leaves 120 to test with


def lay_out(target: Path) -> None:
    """Copy the cells below `target`: train/good, test/good, test/defective. Names are the package's. Raises
    FileNotFoundError if the package is not installed."""
    source = _package_data()
    cells: dict[str, list[str]] = {"0.0": [], "1.0": []}
    with (source / "labels.csv").open(encoding="utf-8") as file:
        for path, probability, kind in csv.reader(file, delimiter=" ", skipinitialspace=True):
            if kind == "mono" and probability in cells:
                cells[probability].append(path)
    good = cells["0.0"]
    random.Random(0).shuffle(good)
    folders = {"train/good": good[:_TRAIN], "test/good": good[_TRAIN:], "test/defective": cells["1.0"]}
    scratch = target.with_name(target.name + ".part")  # renamed when whole
    shutil.rmtree(scratch, ignore_errors=True)
    for folder, paths in folders.items():
        (scratch / folder).mkdir(parents=True)
        for path in paths:
            shutil.copy(source / path, scratch / folder)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _package_data() -> Path:
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise FileNotFoundError("package elpv-dataset is not installed: pip install 'drd-inspect[demo]'")
    return Path(package.origin).parent / "data"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Lay out the embedded example, solar cells, as a data set.")
    parser.add_argument("target", type=Path, help="folder to write, e.g. var/data/elpv-mono")
    lay_out(parser.parse_args().target)
