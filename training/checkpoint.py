"""The checkpoint directory: what training produces, and where export gets the model.

checkpoint.safetensors   every tensor of the network, the teacher's among them (never pickle)
checkpoint.json          recipe, score rule, splits and tensors with digests, versions
metrics.json, report.png for people
resume.safetensors       while a training has not ended
"""

import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor

from training.datasets import Sample
from training.files import file_digest, is_file, write_atomically
from training.geometry import Geometry, UnreadableImage, frame_digest
from training.images import image_digest
from training.messages import first_error, one_line, out_of_memory
from training.model.drd import DRD as DRD  # what a checkpoint gives
from training.model.heatmap import ScoreRule
from training.model.teacher import BackboneError, Teacher
from training.recipe import Recipe
from training.splits import Split
from training.version import program_version

FORMAT: Literal[16] = 16
"""Raised when a field comes, goes or gets another meaning, or the network or its training changes."""
TENSORS, DESCRIPTION = "checkpoint.safetensors", "checkpoint.json"
METRICS, REPORT = "metrics.json", "report.png"
RESUME = "resume.safetensors"


class CheckpointError(ValueError):
    """The directory is not a usable checkpoint; the message says what is wrong with it."""


class ImageRecord(BaseModel):
    """One training image, recorded so that export can verify which images calibration may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    frame_sha256: str
    """Digest of its pixels at the network's size, as training read them."""


class Checkpoint(BaseModel):
    """The contents of `checkpoint.json`, and access to the files beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[16] = FORMAT
    product: str
    recipe: Recipe
    rule: ScoreRule
    seed: int
    data_root: Path
    same_part: re.Pattern[str] | None = None
    """Finds a part's name in its images'; None: each image shows another part."""
    splits: Annotated[dict[Split, tuple[ImageRecord, ...]], Field(min_length=3)]
    libraries: dict[str, str]
    tensors_sha256: str = ""
    """Digest of the file beside `checkpoint.json`; empty before that is saved."""
    directory: Path = Path()

    @property
    def geometry(self) -> Geometry:
        return self.recipe.geometry

    @property
    def learned(self) -> tuple[ImageRecord, ...]:
        """The images that training has fitted weights or the score rule on."""
        return self.splits["fit"] + self.splits["select"]

    def model(self) -> DRD:
        """The trained network: CPU, float32, evaluation mode.

        Raises CheckpointError if this timm has no such backbone, or tensors are missing, damaged, of another
        network or of another training; MemoryError if there is too little.
        """
        path = self.directory / TENSORS
        try:
            drd = DRD(Teacher(self.recipe.backbone, pre_relu=self.recipe.pre_relu), self.recipe, self.rule)
            drd.load_state_dict(load_file(path))
            digest = file_digest(path)  # afterwards: a training that ends meanwhile shows
        except BackboneError as error:
            raise CheckpointError(f"{self.directory}: {error}") from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if out_of_memory(error):
                raise MemoryError from error
            raise CheckpointError(
                f"{path}: does not hold this network's tensors ({one_line(error)})"
            ) from error
        if digest != self.tensors_sha256:
            raise CheckpointError(
                f"{path}: not the tensors that {DESCRIPTION} describes: copied in part, or replaced by "
                "another training meanwhile"
            )
        return drd.eval()

    def samples(self, split: Split) -> list[Sample]:
        """The images of a split, verified to be the ones that training had. Raises CheckpointError naming the
        first that is missing or changed."""
        samples = [Sample(self.data_root / record.name, record.name) for record in self.splits[split]]
        for sample, record in zip(samples, self.splits[split], strict=True):
            if not is_file(sample.path):
                raise CheckpointError(f"{sample.path}: missing; training had it for '{split}'")
            try:
                digest = image_digest(sample.path, self.geometry)
            except UnreadableImage as error:
                raise CheckpointError(f"{error}; training had it for '{split}'") from error
            if digest != record.frame_sha256:
                raise CheckpointError(f"{sample.path}: changed since training, which had it for '{split}'")
        return samples


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read `checkpoint.json`. Raises CheckpointError."""
    path = directory / DESCRIPTION
    try:
        checkpoint = Checkpoint.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{directory}: not a checkpoint directory ({error.strerror}: {DESCRIPTION})"
        ) from error
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["loc"] != ("format",))  # which explains the others
        if first["loc"] == ("format",):
            raise CheckpointError(
                f"{path}: of format {first['input']}, but this program reads {FORMAT}: train again, "
                "or use the one that made it"
            ) from error
        raise CheckpointError(f"{path}: {first_error(error)}") from error
    except (OverflowError, RecursionError) as error:  # which pydantic lets through
        raise CheckpointError(f"{path}: same_part: not a regular expression ({error})") from error
    return checkpoint.model_copy(update={"directory": directory})


def save_checkpoint(checkpoint: Checkpoint, drd: DRD) -> Checkpoint:
    """Write the tensors, then the description, which names them by their digest. Returns the checkpoint, with
    it.

    What an earlier run left there goes in between, so that no two runs are taken for one.
    """
    directory = checkpoint.directory
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in drd.state_dict().items()}
    write_atomically(directory / TENSORS, serialised(state, {}))
    for outdated in (DESCRIPTION, METRICS, REPORT):
        (directory / outdated).unlink(missing_ok=True)
    saved = checkpoint.model_copy(update={"tensors_sha256": file_digest(directory / TENSORS)})
    text = saved.model_dump_json(indent=2, exclude={"directory"})
    write_atomically(directory / DESCRIPTION, text.encode())
    return saved


def records(samples: Sequence[Sample], frames: Tensor) -> tuple[ImageRecord, ...]:
    """Records of `samples`, from their `frames`, uint8 RGB `[n, H, W, 3]`."""
    return tuple(
        ImageRecord(name=sample.name, frame_sha256=frame_digest(frame))
        for sample, frame in zip(samples, frames.numpy(), strict=True)
    )


def libraries() -> dict[str, str]:
    """Versions of the libraries that can change a result."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
        "drd-inspect": program_version(),
    }
