"""Dual-stream training. Every random choice follows from the seed and the step, so that a run that was
stopped after any epoch resumes with the same result.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.loss import distillation_loss, restoration_loss, segmentation_loss, segmentation_target
from training.model.drd import DRD
from training.model.heatmap import distances
from training.randomness import Purpose, generator, seeds
from training.recipe import Recipe
from training.synthesis import add_noise, synthesise

_MAX_CACHE_BYTES = 1 << 30
"""Limit for the cached teacher features of all images."""
_FINAL_FRACTION = 0.1
"""Fraction of the initial learning rate at the end of the cosine schedule."""


class TrainingError(ValueError):
    """The run cannot start or go on; the message says why."""


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[object]:
    """bfloat16 if `bfloat16` and the processor computes in it; float32 otherwise."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 and able else nullcontext()


class Trainer:
    """Trains the fusion and the student of `drd`, which was made by `recipe` and is moved to `device`, on the
    `fit` images' `frames`, uint8 RGB `[N, H, W, 3]`. Their order and damage, the noise and the memory's
    candidates follow from `seed`."""

    epoch: int
    """Finished epochs."""
    last_epoch: int
    """Epochs in all."""
    batches: int
    """Optimiser steps per epoch."""

    def __init__(self, drd: DRD, recipe: Recipe, frames: Tensor, seed: int, device: torch.device) -> None:
        self.drd, self.recipe, self.frames, self.seed, self.device = drd, recipe, frames, seed, device
        drd.to(device).to(memory_format=torch.channels_last)
        self.trainable = nn.ModuleList([drd.bottleneck, drd.student])
        self.optimiser = torch.optim.Adam(
            self.trainable.parameters(), recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay
        )
        self.epoch = 0
        self.batches = max(1, len(frames) // recipe.batch)
        self.last_epoch = recipe.epochs_of(self.batches)
        self._features = self._cached_features()

    def epochs(self, on_step: Callable[[float], None]) -> Iterator[int]:
        """Run the remaining epochs, passing each step's loss to `on_step`; yields the number of finished
        ones."""
        while self.epoch < self.last_epoch:
            self.trainable.train()
            order = generator(self.seed, Purpose.ORDER, self.epoch).permutation(len(self.frames))
            for batch in range(self.batches):
                indices = order[batch * self.recipe.batch : (batch + 1) * self.recipe.batch]
                on_step(self.step(torch.from_numpy(indices), self.epoch * self.batches + batch))
            self.epoch += 1
            yield self.epoch

    def conclude(self) -> None:
        """Recompute the batch-norm statistics, then fill the memory, both from clean images only. Raises
        TrainingError if the student is not finite."""
        memory = self.drd.memory
        with torch.no_grad():
            candidates = self._recompute_statistics()
            self._check_finite()
            self.drd.eval()
            if memory is not None:
                memory.fit_coreset(torch.cat(candidates))
                memory.fit_expected(self._all_distances())

    def _recompute_statistics(self) -> list[Tensor]:
        """Recompute batch-norm statistics, since training mixed both streams. Returns candidates for the
        memory from the same pass, one tensor per batch."""
        for norm in self.trainable.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over the pass
        self.trainable.train()
        memory, draws, candidates = self.drd.memory, torch.Generator().manual_seed(self.seed), list[Tensor]()
        for batch in self.all_frames("statistics"):
            teacher, _ = self.drd.features(batch)
            if memory is not None:
                candidates.append(memory.sample(teacher, len(self.frames), draws))
        return candidates

    def _check_finite(self) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.trainable.state_dict().values()):
            raise TrainingError("the last step left the student not finite; try a smaller learning_rate")

    def _all_distances(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The teacher's features of all clean images and the student's distances to them, in batches."""
        for batch in self.all_frames("memory"):
            teacher, student = self.drd.features(batch)
            yield teacher, distances(teacher, student)

    def all_frames(self, label: str) -> Iterator[Tensor]:
        """All clean frames, once, in as many batches as an epoch has. Of even size, since batch normalisation
        weighs every batch alike, and needs more than one image where they are small."""
        batches = torch.tensor_split(self.frames, self.batches)
        yield from tqdm(batches, label, unit="batch", leave=False, disable=None)

    def step(self, indices: Tensor, step: int) -> float:
        """One optimiser step, number `step` of the run from 0 on, on the `frames` at `indices`, int64 `[n]`.
        Returns the loss, or raises TrainingError."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(step)
        with autocast(self.device, self.recipe.bfloat16):
            loss = self._loss(indices, step)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {step}; try a smaller learning_rate")
        return value

    def _learning_rate(self, step: int) -> float:
        if self.recipe.schedule == "constant":
            return self.recipe.learning_rate
        done = step / (self.batches * self.last_epoch)
        fraction = _FINAL_FRACTION + (1 - _FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * done))
        return self.recipe.learning_rate * fraction

    def _loss(self, indices: Tensor, step: int) -> Tensor:
        recipe = self.recipe
        normal = self._normal_features(indices)
        if recipe.synthesis == "none":
            return distillation_loss(recipe, normal, self.restore_in_float32(normal))
        good = self.frames[indices]
        damage_seeds = seeds(self.seed, Purpose.DAMAGE, step, count=len(indices))
        damaged, mask = synthesise(good, recipe.synthesis, damage_seeds)
        with torch.no_grad():
            pseudo = self.drd.teacher(damaged)
        both = [
            torch.cat([t, self._noisy(p, step, k)])
            for k, (t, p) in enumerate(zip(normal, pseudo, strict=True))
        ]
        restored = self.restore_in_float32(both)
        clean, repaired = [s[: len(indices)] for s in restored], [s[len(indices) :] for s in restored]
        loss = distillation_loss(recipe, normal, clean)
        if recipe.restoration_weight:
            restoration = restoration_loss(normal, repaired, recipe.image_term)
            loss = loss + recipe.restoration_weight * restoration
        if recipe.segmentation_weight:
            clean_input, damaged_input = map(self.drd.teacher.normalised, (good, damaged))
            target = segmentation_target(recipe, clean_input, damaged_input, mask)
            segmentation = segmentation_loss(pseudo, repaired, target.to(self.device))
            loss = loss + recipe.segmentation_weight * segmentation
        return loss

    def restore_in_float32(self, features: list[Tensor]) -> list[Tensor]:
        """`restore`, with results in float32: in bfloat16, one minus a cosine near 1 keeps hardly one
        significant digit."""
        return [level.float() for level in self.drd.restore(features)]

    def _noisy(self, feature: Tensor, step: int, level: int) -> Tensor:
        if not self.recipe.noise:
            return feature
        (seed,) = seeds(self.seed, Purpose.NOISE, step, level, count=1)
        return add_noise(feature, self.recipe.noise, self.recipe.noise_limit, seed)

    def _teacher_features(self, frames: Tensor) -> list[Tensor]:
        with torch.no_grad(), autocast(self.device, self.recipe.bfloat16):
            features: list[Tensor] = self.drd.teacher(frames)
        return features

    def _normal_features(self, indices: Tensor) -> list[Tensor]:
        if self._features is None:
            return self._teacher_features(self.frames[indices])
        return [level[indices].contiguous(memory_format=torch.channels_last) for level in self._features]

    def _cached_features(self) -> list[Tensor] | None:
        """The normal stream is not augmented: where memory allows, its teacher runs once per image."""
        probe = self._teacher_features(self.frames[:1])
        if sum(level.nbytes for level in probe) * len(self.frames) > _MAX_CACHE_BYTES:
            return None
        chunks = torch.split(self.frames, self.recipe.batch)
        walk = tqdm(chunks, "teacher", unit="batch", leave=False, disable=None)
        features = [self._teacher_features(chunk) for chunk in walk]
        return [torch.cat(level) for level in zip(*features, strict=True)]
