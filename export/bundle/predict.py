"""From frames to heatmaps and raw scores: the one implementation that evaluation and service both run."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.choice import open_engine
from export.bundle.engines.engine import Engine, EngineFailed, ask
from export.bundle.files import read_sealed_manifest, verify_files
from export.bundle.manifest import (
    MAX_GUARD_BAND,
    BundleError,
    EngineEntry,
    Manifest,
    parse_manifest,
)
from training.geometry import UnreadableImage, read_rgb

_ROUNDING = 1e-4
"""Score difference two machines may show in float32, where the guard band recorded is next to zero."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """`heatmap` float32 [N, H, W] and `score` float32 [N], both raw."""

    heatmap: NDArray[np.float32]
    score: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk that has been checked. `digest` is the SHA-256 of its manifest."""

    path: Path
    manifest: Manifest
    digest: str

    @staticmethod
    def open(path: Path) -> "Bundle":
        """Checks schema, paths and digests of the bundle at `path`; BundleError says what is wrong."""
        root = path.resolve()  # pinned: a link that is turned later does not change what the engine opens
        try:
            content = read_sealed_manifest(root)
            manifest = parse_manifest(content)
            verify_files(root, manifest.files)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error
        return Bundle(root, manifest, hashlib.sha256(content).hexdigest())

    def start(self, engine: str = "auto") -> "Predictor":
        """Opens `engine`, or the first of the manifest that this machine can run, and replays the golden
        frames on it at every batch size, which also warms it up.

        Raises BundleError, with the reason per engine, when none passes.
        """
        entries = {entry.id: entry for entry in self.manifest.engines}
        if engine != "auto" and engine not in entries:
            raise BundleError(f"{self.path}: no engine {engine}, only {', '.join(entries)}")
        skipped = dict[str, str]()
        for entry in entries.values() if engine == "auto" else [entries[engine]]:
            try:
                return Predictor(self, entry, skipped)
            except BundleError as error:
                skipped[entry.id] = str(error)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise BundleError(f"{self.path}: no engine can be used ({reasons})")

    def golden_frames(self) -> NDArray[np.uint8]:
        """The golden frames [F, H, W, 3], in the manifest's order."""
        geometry = self.manifest.geometry
        try:
            frames = [read_rgb(self.path / golden.file) for golden in self.manifest.golden]
        except UnreadableImage as error:
            raise BundleError(str(error)) from error
        if any(frame.shape != (geometry.height, geometry.width, 3) for frame in frames):
            raise BundleError("a golden frame has not the input's size")
        return np.stack(frames)


class Predictor:
    """A started engine that has proved itself on the golden frames. One thread at a time.

    `guard_band` and `deviation` are on the score scale; `deviation` is the largest seen here at the start.
    `skipped` tells why engines that come earlier in the manifest are not used.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, skipped: Mapping[str, str]) -> None:
        self.bundle = bundle
        self.engine_id = entry.id
        self.batch_sizes = tuple(sorted(entry.batch_sizes))
        self.skipped: Mapping[str, str] = MappingProxyType(dict(skipped))
        self._engine: Engine = open_engine(entry, bundle.path, bundle.manifest.geometry)
        try:
            self.deviation = self._replay(entry.guard_band)
        except BaseException:
            self.close()
            raise
        self.guard_band = max(entry.guard_band or 0.0, 2 * self.deviation)

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        """`frames` uint8 [N, H, W, 3], N one of `batch_sizes`; EngineFailed unless all are answered."""
        geometry = self.bundle.manifest.geometry
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[1:] == (geometry.height, geometry.width, 3), frames.shape
        assert len(frames) in self.batch_sizes, len(frames)
        return Prediction(*ask(self._engine, frames))

    def close(self) -> None:
        """Frees the engine."""
        self._engine.close()

    def _replay(self, recorded: float | None) -> float:
        """Largest score deviation over the golden frames at every batch size; BundleError if too large.

        A verdict can't flip within the guard band, so the deviation is all there is to check.
        """
        manifest, frames = self.bundle.manifest, self.bundle.golden_frames()
        scale = manifest.thresholds.image
        expected = scale.scores(np.array([golden.raw_score for golden in manifest.golden]))
        allowed = MAX_GUARD_BAND / 2 if recorded is None else max(recorded, _ROUNDING)
        deviations = []
        for window in cyclic_windows(len(frames), self.batch_sizes):
            try:
                scores = scale.scores(self.predict(frames[window]).score)
            except EngineFailed as error:
                raise BundleError(f"failed on golden frames at batch size {len(window)}: {error}") from error
            for index, score in zip(window, scores, strict=True):
                deviations.append(abs(float(score - expected[index])))
                if not deviations[-1] <= allowed:  # also true of NaN
                    where = f"{manifest.golden[index].file} at batch size {len(window)}"
                    raise BundleError(
                        f"{where} scores {score:.4f}, not {expected[index]:.4f} ± {allowed:.4f}"
                    )
        return max(deviations)


def cyclic_windows(count: int, batch_sizes: tuple[int, ...], *, every: bool = False) -> Iterator[list[int]]:
    """Batches of indices that take each of `count` frames through every batch size.

    With `every`, each frame is also seen at every position within the batch.
    """
    for size in batch_sizes:
        for start in range(0, count, 1 if every else size):
            yield [(start + offset) % count for offset in range(size)]
