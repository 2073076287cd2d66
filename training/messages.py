"""Messages for people: library errors in one line, printable in any terminal encoding."""

import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

_NO_MEMORY = re.compile(
    "DefaultCPUAllocator|bad_alloc|out of memory|ALLOC_FAILED|failed to allocate memory|"
    "cannot allocate memory|could not create a primitive$",
    re.IGNORECASE,
)
"""Matches errors of torch, oneDNN, ONNX Runtime and CUDA's libraries, most of which have no class."""

_SUSPECTS = 5


def first_error(error: ValidationError) -> str:
    """The first of its errors: the field's place, where one is to blame, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def one_line(error: Exception) -> str:
    """The message, joined to one line and shortened; the error's type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether it means that memory, or a GPU's, was not enough."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def suspects(scores: Iterable[tuple[Path, float]]) -> str:
    """Asks about the good images with the highest `scores`: a defective one often is among them."""
    highest = sorted(scores, key=lambda scored: -scored[1])[:_SUSPECTS]
    return ", ".join(f"{path.name} {score:.3g}" for path, score in highest) + ": are these good?"


def print_in_any_encoding() -> None:
    """Make stdout print a question mark for characters that its encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
