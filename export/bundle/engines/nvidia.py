"""Versions of the GPU and of TensorRT's libraries, to be checked before a plan is opened."""

import ctypes
import importlib.util
from pathlib import Path

from export.bundle.manifest import BundleError, Flavour

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""Package of ONNX Runtime's provider for TensorRT for RTX; it also contains NVIDIA's library."""

_MAJOR, _MINOR = 75, 76
"""CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

_PARTS = ("Major", "Minor", "Patch", "Build")
"""Parts of a version number: the library has a function for each."""


def compute_capability() -> str:
    """Compute capability of the first GPU, such as "8.9". Raises BundleError without a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BundleError("there is no NVIDIA driver here (libcuda.so.1)") from error
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        raise BundleError("the NVIDIA driver finds no GPU here")
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return f"{major.value}.{minor.value}"


_LIBRARIES = {
    "tensorrt-rtx": (RTX_PLUGIN, ["libtensorrt_rtx.so.*.*", "libcudart.so.*"]),
    "tensorrt": ("tensorrt_libs", ["libnvinfer.so.*", "libnvonnxparser.so.*"]),
}
"""Package of each flavour, and those of its libraries that ONNX Runtime's provider is linked against; the
first is TensorRT itself."""


def load_libraries(flavour: Flavour) -> str:
    """Loads TensorRT's libraries, which lie where ONNX Runtime would not look for them, into this process.

    Returns their version, such as "1.7.1.116". Raises BundleError if they are not installed.
    """
    package, patterns = _LIBRARIES[flavour]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise BundleError(f"{package} is not installed")
    folder = Path(spec.origin).parent
    library, *_ = [_load(folder, pattern) for pattern in patterns]
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in _PARTS)


def _load(folder: Path, pattern: str) -> ctypes.CDLL:
    files = [path for path in sorted(folder.glob(pattern)) if not path.is_symlink()]
    if not files:
        raise BundleError(f"{folder.name} contains no library {pattern}")
    try:
        return ctypes.CDLL(str(files[0]))
    except OSError as error:
        raise BundleError(f"{files[0].name} can't be loaded: {error}") from error
