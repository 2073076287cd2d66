"""A sheet of what the second stream sees: good frames above, their pseudo-abnormal versions below."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from training.synthesis import Damage, synthesise

_COLUMNS, _ROWS = 8, 3


def write_preview(path: Path, frames: Tensor, damage: Damage, seed: int) -> None:
    """Draw up to 24 of `frames` (uint8 RGB `[N, H, W, 3]`), each above its damaged version."""
    shown = frames[: _COLUMNS * _ROWS]
    damaged, _ = synthesise(shown, damage, [seed + number for number in range(len(shown))])
    pairs = np.concatenate([shown.numpy(), damaged.clamp(0, 255).byte().numpy()], axis=1)  # [n, 2H, W, 3]
    rows = [np.concatenate(list(pairs[i : i + _COLUMNS]), axis=1) for i in range(0, len(pairs), _COLUMNS)]
    width = rows[0].shape[1]
    full = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(full)).save(path, format="PNG")
