"""What is wrong with a file's content, in one line."""

from pydantic import ValidationError


def first_error(error: ValidationError) -> str:
    """The first of its errors: the field's place, where one is to blame, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
