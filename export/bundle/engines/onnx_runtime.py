"""ONNX Runtime, which is imported only when an engine is opened."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle.manifest import BundleError
from training.geometry import Geometry

_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """The graph on one execution provider."""

    def __init__(self, path: Path, geometry: Geometry, providers: list[str]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError("onnxruntime is not installed") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # the runtime's exceptions share no base class
            raise BundleError(f"ONNX Runtime can't open {path.name}: {_first_line(error)}") from error
        self._check_signature(path, geometry)

    def run(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        heatmap, score = self._session.run(["heatmap", "score"], {"frames": frames})
        return heatmap, score

    def close(self) -> None:
        del self._session

    def _check_signature(self, path: Path, geometry: Geometry) -> None:
        inputs = {value.name: (value.type, value.shape[1:]) for value in self._session.get_inputs()}
        outputs = {value.name: value.type for value in self._session.get_outputs()}
        if inputs != {"frames": ("tensor(uint8)", [geometry.height, geometry.width, 3])}:
            raise BundleError(
                f"{path.name} does not take frames of {geometry.height}×{geometry.width}: {inputs}"
            )
        if outputs != {"heatmap": "tensor(float)", "score": "tensor(float)"}:
            raise BundleError(f"{path.name} does not give heatmap and score: {outputs}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
