"""Images and what is known of them."""

from dataclasses import dataclass
from pathlib import Path


class DatasetError(ValueError):
    """The folder is not a data set of a known layout; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it."""

    path: Path
    name: str
    """Path below the data set's root, with forward slashes."""
    kind: str = "good"
    """`good`, or the kind of defect."""
    mask: Path | None = None
    """Where the defect is: non-zero pixels, in a JPEG those over one half, of an image of the same shape.
    None: not known."""

    @property
    def defective(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Good images to learn from, labelled ones to be measured on."""

    root: Path
    product: str
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    left_out: str = ""
    """Description of whatever else lies among the images; empty if nothing does."""

    def __str__(self) -> str:
        defective = sum(sample.defective for sample in self.test)
        masks = sum(sample.mask is not None for sample in self.test)
        return (
            f"{self.root}: {self.layout} layout, {len(self.train)} good to learn from, "
            f"test {len(self.test) - defective} good and {defective} defective, {masks} masks"
            f"{self.left_out and f'; left out: {self.left_out}'}"
        )
