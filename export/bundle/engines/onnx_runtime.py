"""Engines on ONNX Runtime, which is imported only when one is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.cores import cores_allowed
from export.bundle.engines.engine import first_line
from export.bundle.manifest import BundleError
from training.geometry import Geometry

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_OPTIONS = {CUDA: {"use_tf32": "0"}}
"""Of providers. TF32 would round what the graph has in float32 to 10 bits."""
_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """The graph on one execution provider."""

    def __init__(
        self, path: Path, geometry: Geometry, provider: str, devices: Sequence[Any] | None = None
    ) -> None:
        """`devices`: of a `provider` that is a plug-in. Raises BundleError if it can't run the graph here."""
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError("onnxruntime is not installed") from error
        if devices is None and provider not in (there := onnxruntime.get_available_providers()):
            raise BundleError(f"this ONNX Runtime has no {provider}, only {', '.join(there)}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = cores_allowed() or 0  # 0: one per core of the machine
        # Otherwise threads spin for 10 ms after a batch and take CPU time from decoding and other products.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            if devices is not None:
                options.add_provider_for_devices(devices, {})
            providers = [(provider, _OPTIONS.get(provider, {}))] if devices is None else None
            # Without `enable_fallback=0` it would go on, on the CPU, after some errors of a provider.
            self._session = onnxruntime.InferenceSession(
                path, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # exceptions of the runtime have no common base class
            raise BundleError(f"ONNX Runtime can't open {path.name}: {first_line(error)}") from error
        if provider not in self._session.get_providers():  # without device, driver or library it is left out
            raise BundleError(f"{provider} finds no device it can use, or not all of its libraries")
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
