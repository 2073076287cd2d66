"""What an interrupted run needs to resume: network, optimiser and epoch, at the end of each epoch.

Nothing else: every random choice follows from the seed and the step. Tensors only, no pickle.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.loop import Trainer
from training.tensors import write_tensors

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class ResumeFile:
    """State of an unfinished run.

    Args:
        path: the file, in the checkpoint directory.
        identity: program, format, recipe, seed, weights file and frames; the state of a run with another one
            is ignored.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = hashlib.sha256(identity.encode()).hexdigest()

    def save(self, trainer: Trainer, losses: list[float]) -> None:
        tensors = {f"net.{name}": t.cpu().contiguous() for name, t in trainer.trainable.state_dict().items()}
        for name, parameter in trainer.trainable.named_parameters():
            moments = trainer.optimiser.state[parameter]
            tensors |= {f"adam.{name}.{key}": moments[key].cpu().contiguous() for key in _MOMENTS}
        metadata = {"identity": self.identity, "losses": json.dumps(losses)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, tensors, metadata)

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
