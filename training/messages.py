"""Errors of libraries in one line, for people."""

from pydantic import ValidationError


def first_error(error: ValidationError) -> str:
    """The first of its errors: the field's place, where one is to blame, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def one_line(error: Exception) -> str:
    """Its message, which may have many lines, shortened; the kind of error if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
