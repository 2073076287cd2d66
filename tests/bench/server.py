"""The service with an engine that costs nothing: what is left is the server itself."""

import sys
from pathlib import Path

import numpy as np
import uvloop
from numpy.typing import NDArray

from export.bundle import Bundle, Prediction, Predictor
from service.app import run
from service.cli import announce
from service.logs import set_up_logs
from service.settings import Settings
from tests.bench.limit import smooth_map


class Free(Predictor):
    """Answers every frame with the same map, made once."""

    def __init__(self, bundle: Bundle) -> None:
        self._ready: Prediction | None = None
        super().__init__(bundle, bundle.manifest.engines[0], {})
        self._ready = Prediction(np.stack([smooth_map()] * 8), np.full(8, 0.4, np.float32))

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        if self._ready is None:
            return super().predict(frames)
        return Prediction(self._ready.heatmap[: len(frames)], self._ready.score[: len(frames)])


def main() -> None:
    models, http = sys.argv[1:]
    settings = Settings(models=Path(models), http=http, grpc="127.0.0.1:0", lame_duck_seconds=0)  # type: ignore[arg-type]
    set_up_logs(settings.log_level)
    uvloop.run(run(settings, announce, lambda bundle, engine: Free(bundle)))


if __name__ == "__main__":
    main()
