"""The bundle, which export writes and the service runs: the only package that the service imports."""

from export.bundle.bundle import Bundle, Predictor
from export.bundle.engines.cores import cores_allowed
from export.bundle.engines.engine import EngineFailed, Prediction
from export.bundle.engines.specs import auto_or_known
from export.bundle.frame import FrameStatistics, frame_statistics
from export.bundle.manifest import BATCH_SIZES, MAX_VERSION, BundleError, parse_manifest
from export.bundle.pictures import heatmap_png, mask_png, overlay_png
from export.bundle.reading import Finding, FrameFailed, Region, Verdict, read
from export.bundle.scale import THRESHOLD
from export.bundle.signature import TrustedKey
from training.files import is_folder
from training.geometry import MAX_INPUT_SIDE, Geometry, Size, UnreadableImage, to_rgb
from training.images import IMAGE_FORMATS, MAX_IMAGE_PIXELS, check_compression
from training.messages import one_line, out_of_memory, print_in_any_encoding
from training.names import PRODUCT_NAME, UNKNOWN, is_product_name
from training.version import program_version

__all__ = [
    "BATCH_SIZES",
    "IMAGE_FORMATS",
    "MAX_IMAGE_PIXELS",
    "MAX_INPUT_SIDE",
    "MAX_VERSION",
    "PRODUCT_NAME",
    "THRESHOLD",
    "UNKNOWN",
    "Bundle",
    "BundleError",
    "EngineFailed",
    "Finding",
    "FrameFailed",
    "FrameStatistics",
    "Geometry",
    "Prediction",
    "Predictor",
    "Region",
    "Size",
    "TrustedKey",
    "UnreadableImage",
    "Verdict",
    "auto_or_known",
    "check_compression",
    "cores_allowed",
    "frame_statistics",
    "heatmap_png",
    "is_folder",
    "is_product_name",
    "mask_png",
    "one_line",
    "out_of_memory",
    "overlay_png",
    "parse_manifest",
    "print_in_any_encoding",
    "program_version",
    "read",
    "to_rgb",
]
