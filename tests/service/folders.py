"""Folders of the kinds that nobody wants."""

import os
from contextlib import chdir
from pathlib import Path


def make_unreadable(folder: Path) -> None:
    """For the superuser as well: the path of what it contains is too long."""
    with chdir(folder):
        for _ in range(os.pathconf(folder, "PC_PATH_MAX") // 200 + 1):
            Path("x" * 200).mkdir()
            os.chdir("x" * 200)
