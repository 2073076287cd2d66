"""Parses messages without failing: gRPC would log a traceback for each malformed one."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

Parsed = TypeVar("Parsed", bound=Message)


def lenient_parser(malformed: Parsed) -> Callable[[bytes], Parsed]:
    """Makes messages of bytes; `malformed` stands for those that are not one."""
    kind = type(malformed)

    def parse(message: bytes) -> Parsed:
        try:
            return kind.FromString(message)
        except DecodeError:
            return malformed

    return parse
