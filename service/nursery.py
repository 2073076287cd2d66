"""Where workers come from: forked from a process that has done all imports, within milliseconds."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from service.channel import Channel, shared_memory
from service.settings import MEBIBYTE

_START_SECONDS = 60  # the first worker waits for the nursery's imports, on a machine that may be busy
_END_SECONDS = 5
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # what forks may have no threads
    # The memory of a frame is kept for the next, up to 64 MiB: to have it from the system anew, page by page,
    # takes 40 % of a megapixel's time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MEBIBYTE),
    "MALLOC_TRIM_THRESHOLD_": str(64 * MEBIBYTE),
}


def new_worker(wanted: bytes, room: int, seconds: float = _START_SECONDS) -> Channel:
    """To a worker that waits for its first job. Blocks; EOFError or OSError when there can't be one."""
    try:
        return _forked(wanted, room, seconds)
    except (EOFError, ConnectionError):  # the nursery has ended, unnoticed until now: there will be another
        return _forked(wanted, room, seconds)


def _forked(wanted: bytes, room: int, seconds: float) -> Channel:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = shared_memory(room)
    worker = _Leash(own, memory)
    try:
        own.settimeout(seconds)
        nursery = _nursery.fork(other, memory, wanted)
        other.close()
        try:
            worker.fasten()
        except TimeoutError:  # the nursery hangs: the next worker comes from another
            nursery.kill()
            nursery.wait()
            raise
        own.setblocking(False)
    except BaseException:
        worker.close()
        raise
    finally:
        other.close()
        os.close(memory)
    return worker


class _Leash(Channel):
    """A channel whose worker ends with it: one that has been taken over, or hangs, would go on."""

    _process: int | None = None

    def fasten(self) -> None:
        """The worker says who it is, before it has seen anything that could take it over."""
        head, _ = self.receive()
        self._process = os.pidfd_open(head["process"])

    def close(self) -> None:
        super().close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)


class Nursery:
    """The process that workers are forked from; one for all, started when first needed."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        atexit.register(self.close)

    def fork(self, other: socket.socket, memory: int, wanted: bytes) -> subprocess.Popen[bytes]:
        """Has the other end of a channel served by a new process; OSError when that can't be. The process
        that has been asked for it."""
        with self._changing:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._open()
            assert self._process is not None
            assert self._channel is not None
            socket.send_fds(self._channel, [wanted], [other.fileno(), memory])
            return self._process

    def close(self) -> None:
        """Workers that work go on."""
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
                [sys.executable, "-P", "-W", "ignore", "-m", "service.worker", str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )


_nursery = Nursery()
