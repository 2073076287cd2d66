"""What systemd is told (sd_notify): that the service has started, how it is, that it lives, that it ends."""

import socket
from contextlib import suppress


class Systemd:
    """Does nothing without a `notify_socket`, which systemd, or another supervisor with its protocol, gives
    in the environment."""

    def __init__(self, notify_socket: str) -> None:
        abstract = notify_socket.startswith("@")
        self._address = "\0" + notify_socket[1:] if abstract else notify_socket

    def tell(self, *facts: str) -> None:
        """`facts` as in sd_notify(3), such as `READY=1`. Never waits; what can't be sent now is dropped."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
                own.setblocking(False)
                own.sendto("\n".join(facts).encode(), self._address)
