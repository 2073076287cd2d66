"""Writes the Python code of the gRPC door: `python proto/generate.py [FOLDER]` (default: the repository).

Mapping `proto/` to `service/rpc/pb/` makes the generated modules import each other by their full path.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

_REPOSITORY = Path(__file__).parent.parent
_PACKAGE = "service/rpc/pb"


def generate(to: Path) -> None:
    """Writes `service/rpc/pb/inspection_pb2*` below `to`."""
    scripts = Path(sysconfig.get_path("scripts"))
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"-I{_PACKAGE}={_REPOSITORY / 'proto'}", f"-I{sysconfig.get_path('purelib')}"]
    command += [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command += [f"--{kind}_out={to}" for kind in ("python", "grpc_python")]
    command += [f"--{kind}_out=quiet:{to}" for kind in ("mypy", "mypy_grpc")]
    subprocess.run([*command, f"{_PACKAGE}/inspection.proto"], check=True, cwd=_REPOSITORY)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else _REPOSITORY)
