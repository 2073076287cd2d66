"""What systemd is told (sd_notify): that the service has started, how it is, that it lives, that it ends."""

import socket
from collections.abc import Mapping
from contextlib import suppress


class Systemd:
    """Does nothing where systemd, or another supervisor with its protocol, has not started the service."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, *facts: str) -> None:
        """`facts` as in sd_notify(3), such as `READY=1`. Never waits; what can't be sent now is dropped."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own, suppress(OSError):
                own.setblocking(False)
                own.sendto("\n".join(facts).encode(), self._address)
