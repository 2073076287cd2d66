"""Too little memory is a line, not a traceback; any other unexpected error shows its traceback."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from export import cli, evaluate_cli
from training.checkpoint import Checkpoint


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("bad_alloc"), torch.OutOfMemoryError("CUDA out of memory. Tried …")]
)
@pytest.mark.parametrize("program", ["drd-export", "drd-evaluate"])
def test_too_little_memory_is_told_in_one_line(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    error: Exception,
) -> None:
    monkeypatch.setattr(Checkpoint, "model", Mock(side_effect=error))
    if program == "drd-export":
        assert cli.main([str(checkpoint), "--to", str(tmp_path)]) == 1
    else:
        assert evaluate_cli.main([str(checkpoint), str(data)]) == 1
    assert capsys.readouterr().err == f"{program}: not enough memory\n"


def test_a_bug_is_not_hidden(checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "model", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        evaluate_cli.main([str(checkpoint), str(data)])
