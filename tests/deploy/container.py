"""Images built with buildah and started with runc: a real container, without an engine or a registry.

A base image from Debian's packages stands in for the public one. What this machine needs to reach its package
index (pip's settings, certificates, names) is mounted while the image is built and is in no layer.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.serving import first_lines

REPOSITORY = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Builder:
    """Images in a store of their own, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]

    def base(self) -> str:
        """A Debian with Python, as slim as the public image is; its name."""
        tree = self._folder / "base"
        packages = "python3,python3-venv,ca-certificates"
        _run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree))
        recipe = self._folder / "base.Dockerfile"
        recipe.write_text("FROM scratch\nCOPY . /\n")
        self._buildah("bud", "--isolation", "chroot", "-t", "base", "-f", str(recipe), str(tree))
        shutil.rmtree(tree)
        return "localhost/base"

    def build(self, target: str, base: str) -> str:
        """The `target` of the Dockerfile on `base`; its name."""
        pip = self._folder / "pip.conf"
        pip.write_text(_pip_settings())
        mounts = [(pip, "/etc/pip.conf"), (CERTIFICATES, str(CERTIFICATES))]
        self._buildah(
            "bud", "--format", "docker", "--isolation", "chroot", "--network", "host", "--target", target,
            "--build-arg", f"PYTHON_IMAGE={base}", "-t", target,
            *(f"--volume={source}:{inside}:ro" for source, inside in mounts if source.exists()),
            str(REPOSITORY),
        )  # fmt: skip
        return f"localhost/{target}"

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of itself: user, environment, entry point, ports, health check."""
        inspected = json.loads(self._buildah("inspect", "--type", "image", image))
        config: dict[str, Any] = inspected["Docker"]["config"]
        return config

    @contextmanager
    def tree(self, image: str) -> Iterator[Path]:
        """The image's files."""
        container = self._buildah("from", image)
        try:
            yield Path(self._buildah("mount", container))
        finally:
            self._buildah("rm", container)

    def _buildah(self, *arguments: str) -> str:
        return _run("buildah", *self._store, *arguments)


@dataclass(frozen=True)
class Container:
    """A container that runs. `lines` is what it said until it was ready."""

    name: str
    popen: subprocess.Popen[str]
    lines: tuple[str, ...]

    def python(self, program: str, *arguments: str) -> str:
        """What `program` prints, run inside as the container's own user."""
        return _run("runc", "exec", self.name, "python3", "-c", program, *arguments)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["runc", "exec", self.name, *command], capture_output=True, text=True, timeout=300, check=False
        )

    def terminate(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit status."""
        _run("runc", "kill", self.name, "TERM")
        return self.popen.wait(300)


@contextmanager
def started(
    tree: Path, config: dict[str, Any], folder: Path, volumes: Mapping[str, Path], **environment: str
) -> Iterator[Container]:
    """`config`'s entry point on `tree`, as a cluster with PodSecurity "restricted" would run it: the root and
    `volumes` read-only, no capability, no new privilege; and with no network but its own loopback."""
    (folder / "config.json").write_text(json.dumps(_specification(tree, config, volumes, environment)))
    name = f"drd-{os.getpid()}-{folder.name}"
    popen = subprocess.Popen(
        ["runc", "run", "--bundle", str(folder), name],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert popen.stdout is not None
    try:
        yield Container(name, popen, first_lines(popen))
    finally:
        subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)
        popen.wait(60)
        popen.stdout.close()


def _specification(
    tree: Path, config: dict[str, Any], volumes: Mapping[str, Path], environment: Mapping[str, str]
) -> dict[str, Any]:
    uid, gid = map(int, config["User"].split(":"))
    private = ["nosuid", "nodev", "mode=1777"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": config["Entrypoint"],
            "env": [*config["Env"], *(f"{name}={value}" for name, value in environment.items())],
            "cwd": config["WorkingDir"] or "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(tree), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": private},
            *(
                {"destination": inside, "type": "none", "source": str(path), "options": ["rbind", "ro"]}
                for inside, path in volumes.items()
            ),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


def _pip_settings() -> str:
    """How pip is set up here, as a file."""
    listed = _run(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = dict[str, str]()
    for name, _, value in (line.partition("=") for line in listed):
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""])


def _run(*command: str) -> str:
    """What `command` prints; what it says on failure is the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()
