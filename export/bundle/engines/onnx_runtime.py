"""Engines on ONNX Runtime, which is imported only when one is opened."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.cores import engine_threads
from export.bundle.engines.engine import Prediction, first_line
from export.bundle.manifest import BundleError
from export.bundle.tensors import FRAMES, OUTPUTS
from training.geometry import Geometry

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """The graph on one execution provider."""

    def __init__(
        self,
        path: Path,
        geometry: Geometry,
        provider: str,
        devices: Sequence[Any] | None = None,
        *,
        fixed_batch: bool = False,
    ) -> None:
        """`devices`: of a `provider` that is a plug-in. `fixed_batch`: a session for each batch size, each
        with memory of its own, for a provider that prepares itself anew whenever the size changes. Raises
        BundleError if it can't run the graph here."""
        onnxruntime = _onnxruntime()
        if devices is None and provider not in (there := onnxruntime.get_available_providers()):
            raise BundleError(f"this ONNX Runtime has no {provider}, only {', '.join(there)}")
        if devices is None and provider != CPU:
            with redirect_stdout(sys.stderr):  # where it says what it misses
                onnxruntime.preload_dlls(directory="")  # finds CUDA's libraries installed by pip, too
        self._path, self._provider, self._devices, self._fixed = path, provider, devices, fixed_batch
        self._sessions = dict[int, Any]()
        self._check_signature(self._session(1), geometry)

    def run(self, frames: NDArray[np.uint8]) -> Prediction:
        return Prediction(*self._session(len(frames)).run(OUTPUTS, {FRAMES: frames}))

    def close(self) -> None:
        self._sessions.clear()

    def _session(self, size: int) -> Any:
        """The session for batches of `size`, opened on first use, which is the replay of the golden
        frames."""
        key = size if self._fixed else 0
        if key not in self._sessions:
            self._sessions[key] = self._open(size)
        return self._sessions[key]

    def _open(self, size: int) -> Any:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # A GPU's sessions compute nothing here.
        options.intra_op_num_threads = engine_threads() if self._provider == CPU else 1
        # Otherwise threads spin for 10 ms after a batch and take CPU time from decoding and other products.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._fixed:
            options.add_free_dimension_override_by_name("N", size)
        try:
            if self._devices is not None:
                options.add_provider_for_devices(self._devices, {})
            # Without `enable_fallback=0` it would go on, on the CPU, after some errors of a provider.
            session = onnxruntime.InferenceSession(
                self._path,
                options,
                providers=[self._provider] if self._devices is None else None,
                enable_fallback=0,
            )
        except Exception as error:  # exceptions of the runtime have no common base class
            raise BundleError(f"ONNX Runtime can't open {self._path.name}: {first_line(error)}") from error
        if self._provider not in session.get_providers():  # without device, driver or library it is left out
            raise BundleError(f"{self._provider} finds no device it can use, or not all of its libraries")
        return session

    def _check_signature(self, session: Any, geometry: Geometry) -> None:
        name = self._path.name
        inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
        outputs = {value.name: value.type for value in session.get_outputs()}
        if inputs != {FRAMES: ("tensor(uint8)", [geometry.height, geometry.width, 3])}:
            raise BundleError(f"{name} does not take frames of {geometry.height}×{geometry.width}: {inputs}")
        if outputs != dict.fromkeys(OUTPUTS, "tensor(float)"):
            raise BundleError(f"{name} does not give heatmap and score: {outputs}")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError("onnxruntime is not installed") from error
    return onnxruntime
