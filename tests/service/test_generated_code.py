"""The checked-in gRPC code matches proto/inspection.proto."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, REPOSITORY / "proto/generate.py", tmp_path], check=True)

    fresh = {path.name: path.read_bytes() for path in (tmp_path / "service/rpc/pb").iterdir()}

    assert fresh.keys() == {f"inspection_pb2{end}" for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi")}
    for name, content in fresh.items():
        assert (REPOSITORY / "service/rpc/pb" / name).read_bytes() == content, (
            f"{name}: run proto/generate.py"
        )
