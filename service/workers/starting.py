"""Starts workers: forked within milliseconds from a process that has done all imports, the fork server."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from service.settings import MEBIBYTE
from service.workers.channel import Channel, shared_memory

_START_SECONDS = 60  # the first worker waits for the fork server's imports, perhaps on a busy machine
_END_SECONDS = 5
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # a process that forks must not have threads
    # Up to 64 MiB of a frame's memory is kept for the next one: getting it from the system again, page by
    # page, takes 40 % of the time for a megapixel.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MEBIBYTE),
    "MALLOC_TRIM_THRESHOLD_": str(64 * MEBIBYTE),
}


def new_worker(wanted: bytes, room: int, seconds: float = _START_SECONDS) -> Channel:
    """Starts a worker. Blocks at most about twice `seconds`; EOFError or OSError when it can't be started."""
    try:
        return _forked(wanted, room, seconds)
    except (EOFError, ConnectionError):  # the fork server had died unnoticed: the next call starts a new one
        return _forked(wanted, room, seconds)


def _forked(wanted: bytes, room: int, seconds: float) -> Channel:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with other:  # kept open here, it would hide that the fork server has died
            memory = shared_memory(room)
            try:
                worker = _KillOnClose(own, memory)
                forkserver = _forkserver.fork(other, memory, wanted)
            finally:
                os.close(memory)
        own.settimeout(seconds)
        try:
            worker.receive_pid()
        except TimeoutError:  # the fork server hangs: the next worker needs a new one
            forkserver.kill()
            forkserver.wait()
            raise
        own.setblocking(False)
    except BaseException:
        own.close()  # a worker that was forked ends by it
        raise
    return worker


class _KillOnClose(Channel):
    """A channel that kills its worker when closed: a compromised or hanging one would not end by itself."""

    def receive_pid(self) -> None:
        """Call once, before the worker has seen any input that could compromise it."""
        head, _ = self.receive()
        self.process = os.pidfd_open(head["process"])

    def close(self) -> None:
        super().close()
        if self.process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process, signal.SIGKILL)
            os.close(self.process)


class ForkServer:
    """The process that workers are forked from: one for all pools, started when first needed."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        atexit.register(self.close)

    def fork(self, other: socket.socket, memory: int, wanted: bytes) -> subprocess.Popen[bytes]:
        """Asks for a new worker at the other end of a channel, and returns the fork server's process; OSError
        on failure."""
        with self._changing:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._open()
            assert self._process is not None
            assert self._channel is not None
            socket.send_fds(self._channel, [wanted], [other.fileno(), memory])
            return self._process

    def close(self) -> None:
        """Ends the fork server; its workers continue."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _open(self) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            number = other.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "service.workers.forkserver", str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )


_forkserver = ForkServer()
