"""What may go wrong for a user of this room's programs; each says so in one clear line.

ValueError
 ├─ BundleError                the bundle, or an engine of it, can't be used
 ├─ CalibrationError           no threshold can be fitted
 ├─ ParityError                an engine turns a verdict around
 ├─ RoiError                   a region of interest that is none
 ├─ VersionTakenError          the version exists already
 └─ CheckpointError, DatasetError, UnreadableImage      raised by training/
RuntimeError
 ├─ EngineFailed               the engine gave no answer
 └─ FrameFailed                the answer is not a number
OSError                        disk full, no permission …
"""

from export.accept import ParityError
from export.bundle.engines.engine import EngineFailed
from export.bundle.manifest import BundleError
from export.bundle.reading import FrameFailed
from export.calibrate import CalibrationError
from export.pack import VersionTakenError
from export.roi import RoiError
from training.checkpoint import CheckpointError
from training.datasets import DatasetError
from training.geometry import UnreadableImage

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
"""Everything else is a mistake of ours, and shows its traceback."""
