"""The failures that drd-export and drd-evaluate report in one line.

ValueError
 ├─ BundleError                the bundle, or one of its engines, can't be used
 ├─ CalibrationError           no threshold can be fitted
 ├─ ParityError                an engine reverses a verdict of the checkpoint
 ├─ RoiError                   not a valid region of interest
 ├─ VersionTakenError          the version exists already
 └─ CheckpointError, DatasetError, UnreadableImage      raised by training/
RuntimeError
 ├─ EngineFailed               the engine raised, or its output is not finite or has a wrong shape
 └─ FrameFailed                the output is NaN or infinite
OSError                        disk full, no permission …
"""

from export.bundle.engines.engine import EngineFailed
from export.bundle.manifest import BundleError
from export.bundle.reading import FrameFailed
from export.calibrate import CalibrationError
from export.pack import VersionTakenError
from export.parity import ParityError
from export.roi import RoiError
from training.checkpoint import CheckpointError
from training.datasets import DatasetError
from training.geometry import UnreadableImage
from training.messages import out_of_memory

FAILURES = (
    BundleError,
    CalibrationError,
    ParityError,
    RoiError,
    VersionTakenError,
    CheckpointError,
    DatasetError,
    UnreadableImage,
    EngineFailed,
    FrameFailed,
    OSError,
)
"""Any other exception, except for lack of memory, is a bug and shows its traceback."""


def message_of(error: Exception) -> str:
    """A failure in one line. Raises `error` itself if it is a bug."""
    if isinstance(error, FAILURES):
        return str(error)
    if out_of_memory(error):
        return "not enough memory"
    raise error
