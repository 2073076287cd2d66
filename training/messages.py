"""What people read: errors of libraries in one line, and in whatever encoding their terminal has."""

import io
import re
import sys

from pydantic import ValidationError

_NO_MEMORY = re.compile(
    "DefaultCPUAllocator|bad_alloc|out of memory|ALLOC_FAILED|failed to allocate memory", re.IGNORECASE
)
"""In the errors of torch, ONNX Runtime, CUDA and its libraries, most of which have no class for it."""


def first_error(error: ValidationError) -> str:
    """The first of its errors: the field's place, where one is to blame, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def one_line(error: Exception) -> str:
    """Its message, which may have many lines, shortened; the kind of error if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether it means that memory, or a GPU's, was not enough."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def print_in_any_encoding() -> None:
    """From now on, a character that the terminal's encoding lacks is a question mark, not an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
