"""Dual-stream training. Every random choice follows from the seed and the step, so that a run that was
stopped after any epoch resumes with the same result.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.loss import distillation_loss, restoration_loss, segmentation_loss, segmentation_target
from training.model.drd import DRD
from training.recipe import Recipe
from training.synthesis import synthesise

_CACHE_BYTES = 1 << 30
_FINAL_SHARE = 0.1
"""Of the initial learning rate, at the end of the cosine schedule."""
_ORDER, _DAMAGE, _NOISE = 0, 1, 3
"""Keys of random numbers: the order of an epoch, damage, noise. The rule is chosen with 2 (choose.py)."""


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
    """Trains `drd`'s fusion and student on good frames.

    Args:
        drd: the network; its teacher stays as it is.
        frames: uint8 RGB `[N, H, W, 3]`, the `fit` images.
    """

    def __init__(self, drd: DRD, recipe: Recipe, frames: Tensor, seed: int, device: torch.device) -> None:
        self.drd, self.recipe, self.frames, self.seed, self.device = drd, recipe, frames, seed, device
        drd.to(device).to(memory_format=torch.channels_last)
        self.learned = nn.ModuleList([drd.bottleneck, drd.student])
        self.optimiser = torch.optim.Adam(
            self.learned.parameters(), recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay
        )
        self.epoch = 0
        self.batches = max(1, len(frames) // recipe.batch)
        self.last_epoch = recipe.epochs_of(self.batches)
        self._features = self._cached_features()

    def epochs(self, on_step: Callable[[float], None]) -> Iterator[int]:
        """Run the remaining epochs, passing each step's loss to `on_step`; yields the number of finished
        ones."""
        while self.epoch < self.last_epoch:
            self.learned.train()
            order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(self.frames))
            for batch in range(self.batches):
                indices = order[batch * self.recipe.batch : (batch + 1) * self.recipe.batch]
                on_step(self.step(torch.from_numpy(indices), self.epoch * self.batches + batch))
            self.epoch += 1
            yield self.epoch

    def conclude(self) -> None:
        """Recompute the batch-norm statistics on clean images only, since training mixed both streams, then
        fill the memory from the same images."""
        norms = [m for m in self.learned.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the pass
        self.learned.train()
        memory, generator, seen = self.drd.memory, torch.Generator().manual_seed(self.seed), list[Tensor]()
        with torch.no_grad():
            for batch in self._all_frames("statistics"):
                features, _ = self.drd.features(batch)
                if memory is not None:
                    seen.append(memory.sample(features, len(self.frames), generator))
            if not all(bool(torch.isfinite(tensor).all()) for tensor in self.learned.state_dict().values()):
                raise TrainingError("the last step left the student not finite; try a smaller learning_rate")
            if memory is not None:
                memory.fit_coreset(torch.cat(seen))
        self.drd.eval()
        if memory is not None:
            with torch.no_grad():
                memory.fit_expected(self._restored())

    def _restored(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The teacher's features of all clean images and the student's distances to them, in batches."""
        for batch in self._all_frames("memory"):
            features, restored = self.drd.features(batch)
            yield features, self.drd.distances(features, restored)

    def _all_frames(self, purpose: str) -> Iterator[Tensor]:
        """All clean images, once, in as many batches as an epoch has. Of even size, since batch normalisation
        weighs every batch alike, and needs more than one image where they are small."""
        batches = torch.tensor_split(self.frames, self.batches)
        yield from tqdm(batches, purpose, unit="batch", leave=False, disable=None)

    def step(self, indices: Tensor, step: int) -> float:
        """One optimiser step on the images at `indices`; returns the loss, or raises TrainingError."""
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
        share = _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
        return self.recipe.learning_rate * share

    def _loss(self, indices: Tensor, step: int) -> Tensor:
        recipe = self.recipe
        normal = self._normal_features(indices)
        if recipe.synthesis == "none":
            return distillation_loss(recipe, self.drd.targets(normal), self._restore_in_float32(normal))
        good = self.frames[indices]
        seeds = np.random.default_rng((self.seed, _DAMAGE, step)).integers(0, 1 << 62, len(indices)).tolist()
        damaged, mask = synthesise(good, recipe.synthesis, seeds)
        with torch.no_grad():
            pseudo = self.drd.teacher(damaged)
        both = [
            torch.cat([t, self._noisy(p, step, k)])
            for k, (t, p) in enumerate(zip(normal, pseudo, strict=True))
        ]
        restored = self._restore_in_float32(both)
        clean, repaired = [s[: len(indices)] for s in restored], [s[len(indices) :] for s in restored]
        normal, pseudo = self.drd.targets(normal), self.drd.targets(pseudo)
        loss = distillation_loss(recipe, normal, clean)
        if recipe.restoration_weight:
            loss = loss + restoration_loss(recipe, normal, repaired)
        if recipe.segmentation_weight:
            clean_input, damaged_input = map(self.drd.teacher.normalised, (good, damaged))
            target = segmentation_target(recipe, clean_input, damaged_input, mask)
            loss = loss + segmentation_loss(recipe, pseudo, repaired, target.to(self.device))
        return loss

    def _restore_in_float32(self, features: list[Tensor]) -> list[Tensor]:
        """`restore`, with results in float32: in bfloat16, one minus a cosine near 1 has hardly a digit."""
        return [level.float() for level in self.drd.restore(features)]

    def _noisy(self, feature: Tensor, step: int, level: int) -> Tensor:
        if not self.recipe.noise:
            return feature
        (seed,) = np.random.default_rng((self.seed, _NOISE, step, level)).integers(0, 1 << 62, 1).tolist()
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = torch.randn(feature.shape, generator=generator, device=self.device, dtype=torch.float32)
        deviation = self.recipe.noise
        if self.recipe.noise_limit:
            size = feature.float().square().mean().sqrt().item()
            deviation = min(deviation, self.recipe.noise_limit * size)
        return feature + deviation * noise.to(feature.dtype)

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
        if sum(level.nbytes for level in probe) * len(self.frames) > _CACHE_BYTES:
            return None
        chunks = torch.split(self.frames, self.recipe.batch)
        walk = tqdm(chunks, "teacher", unit="batch", leave=False, disable=None)
        parts = [self._teacher_features(chunk) for chunk in walk]
        return [torch.cat(level) for level in zip(*parts, strict=True)]
