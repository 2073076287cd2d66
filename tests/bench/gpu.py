"""`python -m tests.bench.gpu`: what one GPU does, per network and batch size. Offline; weights are random,
since speed does not depend on them.

Images per second and milliseconds of a batch: PyTorch in half precision, eager and compiled, and ONNX Runtime
with CUDA and TensorRT engines of the same network, frames in host memory at the start and answers at the end.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.bundle import BATCH_SIZES, BundleError
from export.bundle.engines.nvidia import compute_capability
from export.bundle.engines.opening import open_engine
from export.bundle.manifest import FLOAT16_GRAPH, GRAPH, EngineEntry
from export.float16 import to_float16
from export.plans import build_plan
from export.trace import trace
from training.model.drd import DRD
from training.model.teacher import Teacher
from training.recipe import Recipe

BACKBONES = ("resnet18", "wide_resnet50_2")
Run = Callable[[NDArray[np.uint8]], Any]


def main() -> None:
    try:
        capability = compute_capability()
    except BundleError as error:
        raise SystemExit(f"not run: {error}") from error
    print(f"{'network':18}{'engine':26}" + "".join(f"{f'batch {size}':>20}" for size in BATCH_SIZES))
    for backbone in BACKBONES:
        recipe = Recipe(name="bench", backbone=backbone, height=256, width=256)
        drd = DRD(Teacher(backbone, pre_relu=recipe.pre_relu), recipe).eval()
        with TemporaryDirectory() as folder:
            for name, run in runners(drd, recipe, Path(folder), capability.replace(".", "")):
                print(f"{backbone:18}{name:26}{run if isinstance(run, str) else cells(run)}", flush=True)


def runners(drd: DRD, recipe: Recipe, root: Path, target: str) -> Iterator[tuple[str, Run | str]]:
    """Each way of running `drd`, or why it can't be."""
    graph = trace(drd, recipe.geometry)
    onnx.save(graph, root / GRAPH)
    onnx.save(to_float16(graph), root / FLOAT16_GRAPH)
    for name in ("onnx-cuda-fp16", f"tensorrt-fp16-sm{target}", f"tensorrt-rtx-fp16-sm{target}"):
        try:
            entry = EngineEntry(id=name, file=FLOAT16_GRAPH)
            if name.startswith("tensorrt"):
                entry = build_plan(name, root, recipe.geometry)
            yield name, open_engine(entry, root, recipe.geometry).run
        except BundleError as error:
            yield name, f"not run: {error}"
    if not torch.cuda.is_available():
        yield "torch", "not run: this PyTorch finds no CUDA device"
        return
    yield "torch-eager-fp16", in_half_precision(drd.cuda())
    yield "torch-compiled-fp16", in_half_precision(torch.compile(drd.cuda()))


def in_half_precision(network: Any) -> Run:
    def run(frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            return [answer.float().cpu().numpy() for answer in network(torch.from_numpy(frames).cuda())]

    return run


def cells(run: Run, rounds: int = 50) -> str:
    """Images per second, and the median milliseconds of a batch."""
    text = ""
    for size in BATCH_SIZES:
        frames = np.random.default_rng(0).integers(0, 256, (size, 256, 256, 3), np.uint8)
        seconds = list[float]()
        for _ in range(rounds + 10):
            start = perf_counter()
            run(frames)
            seconds.append(perf_counter() - start)
        median = float(np.median(seconds[10:]))
        text += f"{size / median:8.0f}/s {1000 * median:7.2f} ms"
    return text


if __name__ == "__main__":
    main()
