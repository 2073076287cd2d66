"""Messages between the service and a decoder: a JSON object and bytes, never a pickle, for a decoder that has
been taken over may send what it likes.

The bytes pass through memory that both see: two changes of process per message, however busy the machine is,
where a socket's buffer would need some for every 100 kB. What does not fit goes through the socket.
"""

import fcntl
import mmap
import os
import socket
import struct
from typing import Any

import orjson

Head = dict[str, Any]
ROOM = 8 * 2**20
_MOST = 2**30
_LENGTHS = struct.Struct("!II")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Channel:
    """One end. `receive` before the next `send`: both directions use the same memory."""

    def __init__(self, connected: socket.socket, memory: int) -> None:
        self._socket = connected
        self._memory = mmap.mmap(memory, ROOM)

    def send(self, head: Head, payload: bytes | memoryview) -> None:
        """OSError when nobody is there any more, or nobody reads."""
        encoded = orjson.dumps(head)
        shared = len(payload) <= ROOM
        if shared:
            self._memory[: len(payload)] = payload
        self._socket.sendall(_LENGTHS.pack(len(encoded), len(payload)) + encoded)
        if not shared:
            self._socket.sendall(payload)

    def receive(self) -> tuple[Head, bytes]:
        """EOFError when the other side has ended, BlockingIOError when it takes too long."""
        of_head, of_payload = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if max(of_head, of_payload) > _MOST:
            raise EOFError
        head: Head = orjson.loads(self._exactly(of_head))
        return head, self._memory[:of_payload] if of_payload <= ROOM else self._exactly(of_payload)

    def close(self) -> None:
        self._socket.close()
        self._memory.close()

    def _exactly(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise EOFError
        return data


def shared_memory() -> int:
    """A descriptor of memory that two channels can share, and neither can take away from under the other."""
    memory = os.memfd_create("decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, ROOM)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory
