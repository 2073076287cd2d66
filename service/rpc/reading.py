"""Reads messages without failing: gRPC would log a traceback for each malformed one."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

Read = TypeVar("Read", bound=Message)


def reader(malformed: Read) -> Callable[[bytes], Read]:
    """What makes messages of bytes; `malformed` stands for those that are not one."""
    kind = type(malformed)

    def read(message: bytes) -> Read:
        try:
            return kind.FromString(message)
        except DecodeError:
            return malformed

    return read
