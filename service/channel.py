"""Messages between the service and a worker: a JSON object and bytes, never a pickle, for a worker that has
been taken over may send what it likes.

They lie in memory that both see; only their lengths go through a socket. So a message costs two changes of
process however large it is, and whoever waits for it can do so on the event loop.
"""

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import orjson

Head = dict[str, Any]
Bytes = bytes | memoryview
LARGE = 8 * 2**20
"""Bytes of a message whose memory is not kept for the next one."""
_MOST_OF_HEAD = 2**14
"""Bytes: who reads a head soon knows what it is. What there may be many of is payload."""
_LENGTHS = struct.Struct("!QQ")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DoesNotFit(ValueError):
    """The message is larger than the memory, or its head than a head may be."""


class Channel:
    """One end. `receive` before the next `send`: both directions use the same memory."""

    def __init__(self, connected: socket.socket, memory: int) -> None:
        self._socket = connected
        self._memory = mmap.mmap(memory, 0)
        self._received = 0

    def send(self, head: Head, payload: Sequence[Bytes] = ()) -> None:
        """DoesNotFit, or OSError when nobody is there any more. Never waits."""
        encoded, end = orjson.dumps(head), 0
        too_long = len(encoded) > _MOST_OF_HEAD
        if too_long or sum(map(len, payload)) + len(encoded) > len(self._memory):
            raise DoesNotFit
        for part in (*payload, encoded):
            start, end = end, end + len(part)
            self._memory[start:end] = part
        self._socket.send(_LENGTHS.pack(end - len(encoded), len(encoded)))

    def receive(self) -> tuple[Head, memoryview]:
        """The payload is there until the next `send`. EOFError when the other side has ended, or sends what
        is no message."""
        lengths = self._socket.recv(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise EOFError
        of_payload, of_head = _LENGTHS.unpack(lengths)
        self._received = of_payload + of_head
        if of_head > _MOST_OF_HEAD or self._received > len(self._memory):
            raise EOFError
        try:
            head = orjson.loads(self._memory[of_payload : self._received])
        except orjson.JSONDecodeError as error:
            raise EOFError from error
        if not isinstance(head, dict):
            raise EOFError
        return head, memoryview(self._memory)[:of_payload]

    def give_back(self) -> None:
        """Lets go of the memory of a large message, once that has been read."""
        if self._received > LARGE:
            self._memory.madvise(mmap.MADV_REMOVE)

    def fileno(self) -> int:
        """Of the socket: it becomes readable when there is something to receive."""
        return self._socket.fileno()

    def close(self) -> None:
        """The memory goes with the last view of it."""
        self._socket.close()


def shared_memory(room: int) -> int:
    """A descriptor of memory that two channels can share, and neither can take away from under the other.

    Of its `room` there is only as much as has been written.
    """
    memory = os.memfd_create("worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, room)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory
