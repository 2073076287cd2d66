"""An engine that costs nothing: what is left is the server itself."""

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle, Prediction, Predictor
from tests.bench.limit import smooth_map

FREE = "free"


class Free(Predictor):
    """Answers every frame with the same map, made once."""

    def __init__(self, bundle: Bundle) -> None:
        self._answer: Prediction | None = None  # the golden frames are replayed on the real engine
        super().__init__(bundle, bundle.manifest.engines[0], {})
        geometry = bundle.manifest.geometry
        heatmaps = np.stack([smooth_map((geometry.height, geometry.width))] * max(self.batch_sizes))
        self._answer = Prediction(heatmaps, np.full(len(heatmaps), 0.4, np.float32))

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        if self._answer is None:
            return super().predict(frames)
        return Prediction(self._answer.heatmap[: len(frames)], self._answer.score[: len(frames)])


def start(bundle: Bundle, engine: str) -> Predictor:
    """As `Bundle.start`, with the engine `FREE` besides."""
    return Free(bundle) if engine == FREE else bundle.start(engine)
