"""The bundle works without the libraries that training and export need."""

import subprocess
import sys
from pathlib import Path

from tests.bundles import make_bundle

PROGRAM = """
import sys

BLOCKED = set("torch torchvision timm onnx onnxscript safetensors sklearn matplotlib tqdm".split())

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

from pathlib import Path
import export.bundle
assert "onnxruntime" not in sys.modules
import numpy as np

predictor = export.bundle.Bundle.open(Path(sys.argv[1])).start()
print(predictor.predict(np.full((1, 32, 32, 3), 51, np.uint8)).score.round(3))
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
"""


def test_predicts_without_torch_timm_and_onnx(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(make_bundle(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.2]"
