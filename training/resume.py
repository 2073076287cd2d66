"""What an interrupted run needs to resume: network, optimiser and epoch, at the end of each epoch.

Nothing else: every random choice follows from the seed and the step. Tensors only, no pickle.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from training.checkpoint import FORMAT
from training.files import file_digest, write_atomically
from training.loop import Trainer
from training.recipe import Recipe
from training.version import program_version

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class ResumeFile:
    """State of an unfinished run, in the file `path`. That of another program, format, recipe or seed, or of
    other weights or frames, is ignored."""

    def __init__(self, path: Path, recipe: Recipe, seed: int, weights: Path | None, frames: Tensor) -> None:
        self.path = path
        weights_digest = file_digest(weights) if weights else None
        frames_digest = hashlib.sha256(frames.numpy().data).hexdigest()
        run = f"{program_version()} {FORMAT} {recipe!r} {seed} {weights_digest} {frames_digest}"
        self.identity = hashlib.sha256(run.encode()).hexdigest()

    def save(self, trainer: Trainer, losses: list[float]) -> None:
        tensors = {f"net.{name}": t.cpu().contiguous() for name, t in trainer.trainable.state_dict().items()}
        for name, parameter in trainer.trainable.named_parameters():
            moments = trainer.optimiser.state[parameter]
            tensors |= {f"adam.{name}.{key}": moments[key].cpu().contiguous() for key in _MOMENTS}
        metadata = {"identity": self.identity, "losses": json.dumps(losses)}
        write_atomically(self.path, serialised(tensors, metadata))

    def load(self, trainer: Trainer) -> list[float]:
        """Restore `trainer` from the file; returns the losses of the finished epochs, if any."""
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a dict
        except SafetensorError:  # damaged: start from the beginning
            return []
        if metadata.get("identity") != self.identity:
            return []
        _restore(trainer, tensors)
        losses: list[float] = json.loads(metadata["losses"])
        trainer.epoch = len(losses)
        return losses


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    trainer.trainable.load_state_dict(_below("net.", tensors))
    for name, parameter in trainer.trainable.named_parameters():
        moments = {key: tensors[f"adam.{name}.{key}"] for key in _MOMENTS}
        trainer.optimiser.state[parameter] = {
            key: value if key == "step" else torch.empty_like(parameter).copy_(value)
            for key, value in moments.items()
        }


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
