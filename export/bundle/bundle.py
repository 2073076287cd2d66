"""A bundle on disk, and its started engine: what evaluation and service both run."""

import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from export.bundle.copies import private_copy
from export.bundle.deviations import Reference, cyclic_windows, deviations
from export.bundle.engines.engine import Engine, EngineFailed, Prediction, run_engine
from export.bundle.engines.opening import open_engine
from export.bundle.engines.specs import spec_of
from export.bundle.files import read_manifest, verify_files
from export.bundle.manifest import (
    CHECKSUM,
    GOLDEN_STEP,
    MANIFEST,
    MAX_GUARD_BAND,
    MAX_HEATMAP_DEVIATION,
    SIGNATURE,
    BundleError,
    EngineEntry,
    Manifest,
    parse_manifest,
)
from export.bundle.signature import TrustedKey
from training.geometry import UnreadableImage
from training.images import read_rgb

_ROUNDING = 1e-4
"""Score difference that two machines may have in float32, if the recorded deviation is almost 0."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Bundle:
    """A bundle on disk that has passed its checks. `digest` is the SHA-256 of its manifest.

    `root` is the folder to read from: `path`, or a private copy, which is deleted with this object.
    """

    path: Path
    manifest: Manifest
    digest: str
    root: Path

    @staticmethod
    def open(path: Path, trusted: TrustedKey | None = None) -> "Bundle":
        """Checks schema, paths and digests of the bundle at `path`. Raises BundleError.

        With a `trusted` key, the signature is checked and a private copy is used: otherwise somebody who can
        write to the folder, but not sign, could replace a file after the check.
        """
        root = path.resolve()  # so that changing a link later does not change what the engine opens
        try:
            bundle = _checked(root, root, trusted)
            return bundle if trusted is None else _copied(bundle, trusted)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error

    def start(self, engine: str = "auto") -> "Predictor":
        """Opens `engine`, or the first in the manifest that this machine can run, and checks it on the golden
        frames at every batch size, which also warms it up.

        Raises BundleError, with the reason for each engine, if none passes.
        """
        entries = {entry.id: entry for entry in self.manifest.engines}
        if engine != "auto" and engine not in entries:
            raise BundleError(f"{self.path}: no engine {engine}, only {', '.join(entries)}")
        skipped, last = dict[str, str](), None
        for entry in entries.values() if engine == "auto" else [entries[engine]]:
            try:
                return Predictor(self, entry, skipped)
            except BundleError as error:
                skipped[entry.id], last = str(error), error
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise BundleError(f"{self.path}: no engine can be used ({reasons})") from last

    def golden_frames(self) -> NDArray[np.uint8]:
        """The golden frames uint8 `[F, H, W, 3]`, in the manifest's order. Raises BundleError."""
        geometry = self.manifest.geometry
        try:
            frames = [read_rgb(self.root / golden.file) for golden in self.manifest.golden]
        except UnreadableImage as error:
            raise BundleError(str(error)) from error
        if any(frame.shape != (geometry.height, geometry.width, 3) for frame in frames):
            raise BundleError("a golden frame does not have the network's input size")
        return np.stack(frames)

    def golden_heatmaps(self) -> NDArray[np.float32]:
        """The checkpoint's raw maps of them, every fourth pixel: float32 `[F, H/4, W/4]`. Raises
        BundleError."""
        geometry, name = self.manifest.geometry, self.manifest.golden_heatmaps
        try:
            heatmaps = np.load(self.root / name, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{name} can't be read: {error}") from error
        height, width = geometry.height // GOLDEN_STEP, geometry.width // GOLDEN_STEP
        if heatmaps.shape != (len(self.manifest.golden), height, width) or heatmaps.dtype != np.float32:
            raise BundleError(f"{name} holds {heatmaps.dtype} {heatmaps.shape}, not a map per golden frame")
        return np.asarray(heatmaps)

    def reference(self) -> Reference:
        """The predictions that engines have to reproduce. Raises BundleError."""
        scores = np.array([golden.raw_score for golden in self.manifest.golden])
        return Reference(self.golden_frames(), scores, self.golden_heatmaps())


def _checked(path: Path, root: Path, trusted: TrustedKey | None) -> Bundle:
    """The bundle at `path`, read from `root`. Raises BundleError if it was changed."""
    content = read_manifest(root)
    if trusted is not None:
        trusted.check(root, content)
    manifest = parse_manifest(content)
    verify_files(root, manifest.files)
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest(), root)


def _copied(bundle: Bundle, trusted: TrustedKey) -> Bundle:
    """The same in a folder where no other user can change it after the check; deleted with the object."""
    root, remove = private_copy(bundle.root, (MANIFEST, CHECKSUM, SIGNATURE, *bundle.manifest.files))
    try:
        copy = _checked(bundle.path, root, trusted)
    except BaseException:
        remove()
        raise
    weakref.finalize(copy, remove)
    return copy


class Predictor:
    """A started engine that has passed the golden frames. Not thread-safe.

    `guard_band` and `deviation` are on the 0 to 1 scale; `deviation` is the largest on this machine at the
    start. `skipped`: the reasons why engines earlier in the manifest are not used, by id.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, skipped: Mapping[str, str]) -> None:
        self.bundle = bundle
        self.engine_id = entry.id
        self.batch_sizes = tuple(sorted(entry.batch_sizes))
        self.skipped: Mapping[str, str] = MappingProxyType(dict(skipped))
        self._engine: Engine = open_engine(entry, bundle.root, bundle.manifest.geometry)
        self.on_gpu = spec_of(entry.id).gpu
        try:
            self.deviation = self._replay(entry)
        except BaseException:
            self.close()
            raise
        self.guard_band = max(entry.guard_band or 0.0, 2 * self.deviation)

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        """Runs `frames` uint8 `[N, H, W, 3]`, N one of `batch_sizes`. Raises EngineFailed."""
        geometry = self.bundle.manifest.geometry
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[1:] == (geometry.height, geometry.width, 3), frames.shape
        assert len(frames) in self.batch_sizes, len(frames)
        return run_engine(self._engine, frames)

    def close(self) -> None:
        """Frees the engine's memory; the predictor can't be used afterwards."""
        self._engine.close()

    def _replay(self, entry: EngineEntry) -> float:
        """The largest score deviation on the golden frames at any batch size. Raises BundleError if it, or
        that of a map, is too large.

        Verdicts need no check of their own: with a deviation inside the guard band they cannot flip.
        """
        manifest, reference = self.bundle.manifest, self.bundle.reference()
        windows = cyclic_windows(len(reference.frames), self.batch_sizes)
        allowed, allowed_on_maps = _allowed(entry)
        largest = 0.0
        for seen in deviations(self._predict_golden, reference, manifest.thresholds, windows):
            where = f"{manifest.golden[seen.index].file} at batch size {seen.batch_size}"
            if not seen.of_score <= allowed:  # also true of NaN
                raise BundleError(f"{where} scores {seen.score:.4f}, not {seen.expected:.4f} ± {allowed:.4f}")
            if not seen.of_heatmap <= allowed_on_maps:
                raise BundleError(
                    f"{where}: its heatmap deviates by {seen.of_heatmap:.5f}; "
                    f"allowed are {allowed_on_maps:.5f}"
                )
            largest = max(largest, seen.of_score)
        return largest

    def _predict_golden(self, frames: NDArray[np.uint8]) -> Prediction:
        """`predict`, with a failure as BundleError. So is a value that is not finite: comparing may miss it,
        since infinity scores 0 or 1, and maps are compared at every fourth pixel."""
        try:
            prediction = self.predict(frames)
        except EngineFailed as error:
            raise BundleError(f"failed on golden frames at batch size {len(frames)}: {error}") from error
        if not prediction.is_finite:
            raise BundleError(f"its output for golden frames at batch size {len(frames)} is NaN or infinite")
        return prediction


def _allowed(entry: EngineEntry) -> tuple[float, float]:
    """Largest deviations of score and heatmap (0 to 1 scales) that are allowed at the start."""
    if entry.guard_band is None or entry.heatmap_deviation is None:  # export could not run it
        return MAX_GUARD_BAND / 2, MAX_HEATMAP_DEVIATION
    # The guard band becomes twice the deviation seen here, and may not exceed the widest there is.
    score = min(max(entry.guard_band, _ROUNDING), MAX_GUARD_BAND / 2)
    return score, min(max(2 * entry.heatmap_deviation, _ROUNDING), MAX_HEATMAP_DEVIATION)
