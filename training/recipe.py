"""Recipes: everything that decides what a training run computes, and nothing else.

A recipe is kept in the checkpoint. The presets are `quick`, `fast`, `rd` and `paper`. In all of them, though
not in the publications of `rd` and `paper`, the teacher's weights are rounded to bfloat16
(training/model/rounding.py), batch-norm statistics are computed anew at the end, and the images that choose
the rule and set the threshold are not trained with.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.geometry import SIDE_STEP, Filter, Geometry
from training.messages import first_error

_LARGEST = 1e30  # of what becomes a float32
Positive = Annotated[float, Field(gt=0, le=_LARGEST)]
Weight = Annotated[float, Field(ge=0, le=_LARGEST)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Fusion = Literal["mfcf", "mff"]
ImageTerm = Literal["channel", "flat"]


class RecipeError(ValueError):
    """The recipe cannot be used; the message names the field."""


class Recipe(BaseModel):
    """One experiment. Defaults are those of `fast`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = "fast"

    # What the networks see
    backbone: str = "tf_efficientnet_lite0"
    """Any timm backbone with feature strides 4, 8 and 16 that takes every input size. A tag names the weights
    (`resnet18.tv_in1k`: torchvision's first); without one timm chooses."""
    pre_relu: bool = True
    """The teacher's levels are taken before the ReLU that each ends in, where there is one (ResNets): what it
    cuts off tells positions apart, too (Heo et al., ICCV 2019)."""
    height: int = 256
    width: int = 256
    """Pixels of the input's sides, multiples of 32, from 32 to 4096."""
    own_shape: bool = True
    """Long images keep their shape: about as many pixels as height × width, by training/input_size.py."""
    filter: Filter = "bilinear"
    """How pictures are shrunk: `bilinear` averages; `bilinear-point`, the paper's, does not."""

    # Networks
    fusion: Fusion = "mfcf"
    """`mfcf`: the paper's cascade; `mff`: RD's flat fusion, for the baseline."""
    fusion_width: Annotated[int, Field(ge=1, le=4)] = 2
    """w of the cascade: its middle stage has w times the third level's channels."""
    student_levels: Literal[2, 3] = 2
    """How many of the teacher's levels the student restores, from the coarsest. The finest shows mostly
    texture that no student can restore, and would take two thirds of the student's time."""
    bounded: bool = True
    """ReLU6 instead of ReLU in fusion and student, which keeps activations within what int8 can represent.
    Only for teachers whose features take both signs: elsewhere the student's outputs are themselves
    activations."""

    # The second, pseudo-abnormal stream
    synthesis: Literal["none", "drd", "mix"] = "mix"
    """The kind of damage: `drd`, the paper's, pastes a square; `mix` many shapes (training/synthesis.py)."""
    noise: Weight = 0.1
    """Standard deviation of the noise on the pseudo stream's features before the bottleneck."""
    noise_limit: Weight = 0.03
    """The noise is at most this fraction of the features' root mean square, which is about 5 for
    EfficientNet-lite0 and 0.3 for ResNet-18; 0: no limit."""

    memory: Annotated[int, Field(ge=0, le=20_000)] = 1000
    """Feature vectors of good parts that are stored, for the distance to the nearest; 0: no memory. They are
    chosen from about 20,000."""

    # Losses
    position_weight: Weight = 1.0
    """a_pos: one cosine per position, over channels ("batch")."""
    image_weight: Weight = 1.0
    """a_img: cosine(s) per image ("individual")."""
    image_term: ImageTerm = "flat"
    """`channel`: the paper's, one cosine per channel; `flat`: RD's, one over the whole feature map."""
    restoration_weight: Weight = 1.0
    """L_rec: the pseudo stream is restored towards the clean image's features."""
    segmentation_weight: Weight = 0.1
    """L_seg: the pseudo stream's heatmap against where the two images differ."""
    segmentation_target: Literal["rgb_cos", "mask"] = "mask"
    """`mask`: 1 where they differ; `rgb_cos`: the paper's 1 - cos of the two colours."""

    # Optimiser
    epochs: Annotated[int, Field(ge=1)] = 12
    """Passes over the good images. More are not better: a student trained for longer also restores damage."""
    min_steps: Annotated[int, Field(ge=0)] = 500
    """Least number of optimiser steps, whatever `epochs` says: with few images there are more epochs."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Good images per step; with synthesis, as many pseudo-abnormal ones beside them."""
    learning_rate: Positive = 5e-3
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.5, 0.999)  # a list, in TOML
    weight_decay: Weight = 1e-5
    schedule: Literal["constant", "cosine"] = "cosine"
    """`cosine` falls to a tenth of the learning rate."""
    bfloat16: bool = True
    """Autocast to bfloat16 where the processor computes in it; weights, losses, evaluation stay float32."""

    # Score rule
    rule: Literal["chosen", "drd", "mean"] = "chosen"
    """`chosen`: per product, on the `select` images; `drd`: the paper's refinement; `mean`: plain RD."""

    @model_validator(mode="after")
    def _memory_has_a_say(self) -> Self:
        if self.memory and self.rule != "chosen":
            raise ValueError(f"memory needs the rule 'chosen'; with {self.rule!r} it has to be 0")
        return self

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        second = self.synthesis != "none" and (self.restoration_weight or self.segmentation_weight)
        if not (self.position_weight or self.image_weight or second):
            raise ValueError("no loss is left: all weights that count are 0")
        return self

    @model_validator(mode="after")
    def _size_is_possible(self) -> Self:
        _ = self.geometry
        if self.batch * self.height * self.width == SIDE_STEP**2:  # one position in the embedding
            raise ValueError(f"one picture of {SIDE_STEP}×{SIDE_STEP} is too little to normalise a batch by")
        return self

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.height, self.width, self.filter)

    def epochs_of(self, batches: int) -> int:
        """Number of epochs when one has so many `batches`."""
        return max(self.epochs, -(-self.min_steps // batches))


PRESETS: dict[str, Recipe] = {
    "quick": Recipe(name="quick", epochs=8, min_steps=300),
    "fast": Recipe(name="fast"),
    "rd": Recipe(
        name="rd", pre_relu=False, fusion="mff", student_levels=3, bounded=False, synthesis="none",
        position_weight=0, restoration_weight=0, segmentation_weight=0, noise=0, memory=0, rule="mean",
    ),
    "paper": Recipe(
        name="paper", backbone="wide_resnet50_2.tv_in1k", pre_relu=False, own_shape=False,
        filter="bilinear-point", synthesis="drd", student_levels=3, bounded=False, memory=0,
        image_term="channel", segmentation_target="rgb_cos", noise_limit=0, epochs=200, min_steps=0, batch=4,
        schedule="constant", bfloat16=False, rule="drd",
    ),
}  # fmt: skip


def load_recipe(name_or_file: str, **overrides: object) -> Recipe:
    """A preset by name, or a TOML file (field = value; `preset = "fast"` names its base).

    `overrides` with the value None are left out. Given `epochs`, `min_steps` becomes 0; given a side of the
    input, `own_shape` becomes false. Raises RecipeError.
    """
    fields: dict[str, object] = {}
    base = name_or_file
    if name_or_file.endswith(".toml"):
        try:
            fields = tomllib.loads(Path(name_or_file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:  # the last two: tomllib on absurd values, too
            raise RecipeError(f"recipe {name_or_file}: {error}") from error
        base = str(fields.pop("preset", "fast"))
        stem = Path(name_or_file).stem.encode(errors="replace").decode()  # the checkpoint holds it, in JSON
        fields.setdefault("name", stem)
    if base not in PRESETS:
        raise RecipeError(f"recipe {base!r} is not known; there are {', '.join(PRESETS)}, or a FILE.toml")
    named = {key: value for key, value in overrides.items() if value is not None}
    for given in (fields, named):
        if given.keys() & {"height", "width"}:
            given.setdefault("own_shape", False)
        if "epochs" in given:
            given.setdefault("min_steps", 0)
    try:
        return Recipe.model_validate(PRESETS[base].model_dump() | fields | named)
    except ValidationError as error:
        raise RecipeError(f"recipe {name_or_file}: {first_error(error)}") from error
