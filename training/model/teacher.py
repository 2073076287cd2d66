"""The teacher: an ImageNet backbone, frozen, cut off above its third level.

Widths, strides and normalisation come from timm (`feature_info`, `pretrained_cfg`). Two facts it does not
give are written here: EfficientNet-lite's normalisation and the inner width of ResNet's bottleneck blocks.
"""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional as F

from training.messages import one_line, out_of_memory

STRIDES = (4, 8, 16)
_PROBE = 64
"""Pixels of a side of the frame that shows what a backbone gives."""


class BackboneError(ValueError):
    """The backbone or its weights cannot be used; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """What the student must know of the teacher to mirror it."""

    channels: tuple[int, int, int]
    signed: bool
    """Features take both signs, so the student's levels must not end in a ReLU."""
    bottleneck_ratio: float | None
    """Inner to outer width of the bottleneck blocks; None: basic blocks."""
    blocks: tuple[int, int, int]
    """Student blocks from the coarsest level to the finest."""


class Teacher(nn.Module):
    """Features of frames at strides 4, 8 and 16.

    `backbone` is timm's name, with or without the tag of its weights (`resnet18.tv_in1k`); its strides must
    include 4, 8 and 16, and it must take every input size. With `pre_relu`, each level is given before the
    ReLU it ends in, where all do (ResNets).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, *, pre_relu: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.net = _truncated(backbone)
        self._pre_relu = pre_relu and _strip_last_relus(self.net)
        self.channels: tuple[int, int, int] = tuple(_feature_info(self.net).channels())
        mean, std = _normalisation(backbone)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()
        self._check_features()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: the teacher's batch statistics remain ImageNet's."""
        return super().train(mode=False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """RGB frames `[N, H, W, 3]`, 0–255 (uint8 or float) → features `[N, C_k, H/s_k, W/s_k]`."""
        x = self.normalised(frames)
        if not self._pre_relu:
            return list(self.net(x))
        features = list[Tensor]()
        for name, stage in self.net.named_children():
            x = stage(x)
            if name in _level_names(self.net):
                features.append(x)
                x = F.relu(x)
        return features

    def normalised(self, frames: Tensor) -> Tensor:
        """Frames as in `forward`, on any device → normalised input `[N, 3, H, W]` on the backbone's."""
        return (frames.to(self.mean.device).permute(0, 3, 1, 2).float() - self.mean) / self.std

    def mirror(self) -> Mirror:
        """Widths, sign and block kind, read off the network itself."""
        with torch.inference_mode():
            negative = any(bool((feature < 0).any()) for feature in self(_probe()))
        ratio = _bottleneck_ratio(self.net, self.channels[2])
        # The probe cannot show it with `pre_relu`: timm starts a block's last normalisation at zero, so that
        # levels are not negative until weights are loaded.
        return Mirror(self.channels, self._pre_relu or negative, ratio, (3, 4, 6) if ratio else (2, 2, 2))

    def _check_features(self) -> None:
        """Some backbones take one input size only, and some give channels last."""
        needed = [(1, c, _PROBE // s, _PROBE // s) for c, s in zip(self.channels, STRIDES, strict=True)]
        try:
            with torch.inference_mode():
                shapes = [tuple(feature.shape) for feature in self(_probe())]
        except (RuntimeError, ValueError, AssertionError) as error:
            if out_of_memory(error):
                raise MemoryError from error
            raise BackboneError(
                f"backbone {self.backbone!r} does not take every input size: {one_line(error)}"
            ) from error
        if shapes != needed:
            raise BackboneError(f"backbone {self.backbone!r} gives features {shapes}; {needed} are needed")


def _probe() -> Tensor:
    return torch.arange(_PROBE * _PROBE * 3).remainder(251).view(1, _PROBE, _PROBE, 3)


def architecture(backbone: str) -> str:
    """`backbone` without its tag, which names one of the network's sets of weights."""
    return backbone.partition(".")[0]


def _check_name(backbone: str) -> None:
    name = architecture(backbone)
    if name not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{name[:8]}*")[:5])
        raise BackboneError(
            f"backbone {backbone!r} is not a timm model" + (f"; near it: {close}" if close else "")
        )
    tagged = timm.list_pretrained(f"{name}.*")
    if backbone != name and backbone not in tagged:
        known = f"there are {', '.join(tagged)}" if tagged else f"{name} has none"
        raise BackboneError(f"backbone {backbone!r}: timm knows no weights of this tag; {known}")


def _truncated(backbone: str) -> nn.Module:
    _check_name(backbone)
    try:
        net = timm.create_model(backbone, features_only=True, pretrained=False)
    except (RuntimeError, ValueError, AttributeError, AssertionError) as error:
        if out_of_memory(error):
            raise MemoryError from error
        raise BackboneError(f"backbone {backbone!r} gives no feature maps: {error}") from error
    reductions = list(_feature_info(net).reduction())
    if not set(STRIDES) <= set(reductions):
        raise BackboneError(f"backbone {backbone!r} has strides {reductions}; strides 4, 8 and 16 are needed")
    levels = tuple(_feature_info(net).out_indices[reductions.index(stride)] for stride in STRIDES)
    net = timm.create_model(backbone, features_only=True, pretrained=False, out_indices=levels)
    # Some of timm's feature networks keep, and run, the blocks above the last level asked for. Others are cut
    # off there already, and flat: `stages_2` stands for `stages.2`.
    parent, _, last = _feature_info(net).module_name()[-1].rpartition(".")
    stages = dict(net.named_modules()).get(parent)
    if isinstance(stages, nn.Sequential) and last.isdigit():
        del stages[int(last) + 1 :]
    return net


def _strip_last_relus(net: nn.Module) -> bool:
    """Take away the ReLU that each level ends in: who runs `net` puts it between them. False, and nothing is
    changed, where a level does not end in a residual block with one."""
    children = dict(net.named_children())
    ends = [_last_relu(children.get(name)) for name in _level_names(net)]
    if not isinstance(net, FeatureListNet) or None in ends:
        return False
    for block, name in filter(None, ends):
        setattr(block, name, nn.Identity())
    return True


def _last_relu(level: nn.Module | None) -> tuple[nn.Module, str] | None:
    """A level's last block, and what timm calls the ReLU after its sum; None where there is none."""
    blocks = list(level.children()) if level is not None else []
    layers = dict(blocks[-1].named_children()) if blocks else {}
    name = "act3" if "act3" in layers else "act2"
    return (blocks[-1], name) if isinstance(layers.get(name), nn.ReLU) else None


def _level_names(net: nn.Module) -> list[str]:
    names: list[str] = _feature_info(net).module_name()
    return names


def _feature_info(net: nn.Module) -> Any:
    """timm's description of the levels: `channels()`, `reduction()`, `module_name()`, a list each."""
    return net.feature_info


def _bottleneck_ratio(net: nn.Module, outer: int) -> float | None:
    for name, module in net.named_modules():
        if name.split(".")[0] == "layer3" and type(module).__name__ == "Bottleneck":
            return float(module.conv2.out_channels) / outer
    return None


def _normalisation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation on the 0–255 scale."""
    if backbone.startswith("tf_efficientnet_lite"):
        return (127.0,) * 3, (128.0,) * 3  # what its weights were trained under, to the digit
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    mean = config.mean if config else timm.data.IMAGENET_DEFAULT_MEAN
    std = config.std if config else timm.data.IMAGENET_DEFAULT_STD
    return tuple(255 * v for v in mean), tuple(255 * v for v in std)
