"""What a dual-stream step costs beside the teacher alone, in one run on one machine.

python -m tests.bench.training [--backbone NAME] [--weights FILE] [--recipe NAME]
"""

import argparse
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from training.loop import Trainer, autocast
from training.model.drd import DRD
from training.model.weights import load_teacher
from training.recipe import load_recipe
from training.run import usable_device
from training.synthesis import synthesise

ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--recipe", default="fast")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, backbone=options.backbone)
    device = usable_device("auto")
    shape = (2 * recipe.batch, recipe.height, recipe.width, 3)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    drd = DRD(load_teacher(recipe.backbone, options.weights, pre_relu=recipe.pre_relu), recipe)
    trainer = Trainer(drd, recipe, frames, 0, device)
    drd.train()
    indices, good = torch.arange(recipe.batch), frames[: recipe.batch]

    def teacher() -> None:
        with torch.no_grad(), autocast(device, recipe.bfloat16):
            drd.teacher(frames.to(device))

    timed = {
        "teacher, normal and pseudo": teacher,
        "step": lambda: trainer.step(indices, 0),
        "synthesis": lambda: synthesise(good, "mix", range(len(good))),
    }
    medians = interleaved(timed, device)
    print(f"{recipe.backbone}, batch {recipe.batch}+{recipe.batch}, {device}; ms, median of {ROUNDS}")
    alone = medians["teacher, normal and pseudo"]
    for name, seconds in medians.items():
        print(f"  {name:<28} {seconds * 1e3:8.1f}   {seconds / alone:5.2f} × teacher")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def interleaved(timed: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of each, measured in turns so that the machine's moods fall on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for round_ in range(ROUNDS + 2):
        for name, work in timed.items():
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:  # the first rounds warm up
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
