"""A connection that may linger."""

from collections.abc import Callable
from typing import Any


class Transport:
    """A connection's transport whose `close` only ends the connection if it need not linger, or does so
    already."""

    def __init__(self, transport: Any, linger: Callable[[], bool]) -> None:
        self._transport, self._linger = transport, linger
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._linger():
            self._transport.close()
        else:
            self.lingers = True
