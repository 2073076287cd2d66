"""Messages between the service and a worker: a JSON object and bytes. Never a pickle: a compromised worker
could make that run code.

They are in shared memory; only their lengths go through a socket. So a message of any size costs two context
switches, and can be awaited on the event loop.
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
"""Above this size, in bytes, a message's memory is returned to the system."""
_MAX_HEAD_BYTES = 2**14
"""So that parsing it is quick. Long lists belong in the payload."""
_LENGTHS = struct.Struct("!QQ")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DoesNotFit(ValueError):
    """The message is larger than the shared memory, or its head too large."""


class Ended(EOFError):
    """The other side has ended. `signal`: what ended it, as the fork server or a compromised worker says; 0:
    unknown."""

    def __init__(self, signal: int = 0) -> None:
        super().__init__()
        self.signal = signal


class Channel:
    """One end. Call `receive` before the next `send`: both directions use the same memory."""

    process: int | None = None
    """A descriptor, as a process id may be given to another process: readable when the worker has ended."""

    def __init__(self, connected: socket.socket, memory: int) -> None:
        self._socket = connected
        self._memory = mmap.mmap(memory, 0)
        self._received = 0

    def send(self, head: Head, payload: Sequence[Bytes] = ()) -> None:
        """Raises DoesNotFit, or OSError when the other end is closed. Never waits."""
        encoded, end = orjson.dumps(head), 0
        too_long = len(encoded) > _MAX_HEAD_BYTES
        if too_long or sum(map(len, payload)) + len(encoded) > len(self._memory):
            raise DoesNotFit
        for part in (*payload, encoded):
            start, end = end, end + len(part)
            self._memory[start:end] = part
        self._socket.send(_LENGTHS.pack(end - len(encoded), len(encoded)))

    def receive(self) -> tuple[Head, memoryview]:
        """The payload is valid until the next `send`. Ended when the other side has, another EOFError when it
        has sent something that is not a message; BlockingIOError when there is none and the socket does not
        wait."""
        lengths = self._socket.recv(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise Ended(lengths[0] if lengths else 0)
        of_payload, of_head = _LENGTHS.unpack(lengths)
        self._received = of_payload + of_head
        if of_head > _MAX_HEAD_BYTES or self._received > len(self._memory):
            raise EOFError
        try:
            head = orjson.loads(self._memory[of_payload : self._received])
        except orjson.JSONDecodeError as error:
            raise EOFError from error
        if not isinstance(head, dict):
            raise EOFError
        return head, memoryview(self._memory)[:of_payload]

    def give_back(self) -> None:
        """Returns the memory of a large message to the system, once it has been read."""
        if self._received > LARGE:
            self._memory.madvise(mmap.MADV_REMOVE)

    def fileno(self) -> int:
        """The socket's: readable when there is a message to receive."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket; the memory is freed with the last view of it."""
        self._socket.close()


def shared_memory(room: int) -> int:
    """A file descriptor of `room` bytes of memory for two channels, which neither can shrink for the other.

    Only what has been written takes physical memory.
    """
    memory = os.memfd_create("worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, room)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory
