"""Opens listening sockets, with clear errors."""

import errno
import os
import socket
import stat
from pathlib import Path

from service.settings import Address

SOCKET_MODE = 0o660
"""Mode of unix sockets: the owner and the group may connect."""
_BACKLOG = 2048


class CannotListen(Exception):
    """The address can't be listened on; the message is one clear line."""


def listen(address: Address) -> socket.socket:
    """A listening socket at `address`."""
    try:
        return _unix(Path(address.path)) if address.path else _tcp(address)
    except UnicodeError as error:
        raise CannotListen(f"can't listen on {address}: there can be no host of this name") from error
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else error.strerror or str(error)
        raise CannotListen(f"can't listen on {address}: {reason}") from error


def name_of(listening: socket.socket) -> Address:
    """The address a socket is bound to, with the actual port where 0 was asked for."""
    if listening.family == socket.AF_UNIX:
        return Address(path=listening.getsockname())
    return Address(*listening.getsockname()[:2])


def _tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        _remove_leftover(path)
        listening.bind(str(path))
        path.chmod(SOCKET_MODE)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _remove_leftover(path: Path) -> None:
    """Removes the socket file of an earlier run; OSError when anything else may be there, as one in use."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(errno.EEXIST, "what lies there is no socket, and is left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:  # perhaps of another kind, or another user's
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()
