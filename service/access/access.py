"""Access control of both doors: callers need a token if a tokens file is given; otherwise anyone may ask."""

import logging
import math
import time
from pathlib import Path

from starlette.types import Scope

from service.access.tokens import EVERYTHING, Grant, Token, TokensError, find, parse_tokens, read_tokens
from service.errors import Denied
from service.logs import LogOnce
from service.metrics import Metrics
from service.values import Door

GRANT = "drd.grant"
"""Where the guard keeps the grant of an HTTP request in its ASGI scope."""
_logger = logging.getLogger(__name__)


class Access:
    """The tokens in use. Raises TokensError for a bad file at the start; later the last valid ones stay."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        self._path, self._metrics = path, metrics
        self._content = self._read = b"" if path is None else read_tokens(path)
        self._tokens: tuple[Token, ...] = parse_tokens(self._content)
        self._log_once = LogOnce()
        self._logged_at, self._unlogged = -math.inf, 0

    @property
    def needed(self) -> bool:
        """Whether callers need a token."""
        return self._path is not None

    def admit(self, secret: str | None) -> Grant:
        """What the holder of `secret` may do; raises Unauthenticated if it is not valid."""
        return find(self._tokens, secret) if self.needed else EVERYTHING

    def denied(self, door: Door, error: Denied) -> None:
        """Counts a caller denied outside of a `Call`, which counts its own.

        Logs at most one a second, so that strangers can't fill the disk.
        """
        self._metrics.denied.labels(door, error.reason).inc()
        self._unlogged += 1
        if time.monotonic() - self._logged_at >= 1:
            facts = {"door": door, "reason": error.reason, "since_last": self._unlogged}
            _logger.info("refused: %s", error, extra=facts)
            self._logged_at, self._unlogged = time.monotonic(), 0

    def refresh(self) -> None:
        """Reloads a changed file, once two calls in sequence have read the same: it may be half written.

        An unreadable or invalid one changes nothing and is logged once.
        """
        if self._path is None:
            return
        try:
            before, self._read = self._read, read_tokens(self._path)
            if self._read != before:
                return
            content = self._read
            tokens = self._tokens if content == self._content else parse_tokens(content)
        except TokensError as error:
            if self._log_once.changed(str(error)):
                _logger.error("the tokens in use are kept: %s", error)
            return
        if tokens is not self._tokens:
            _logger.info("tokens reloaded: %s", ", ".join(token.grant.caller for token in tokens) or "none")
        self._tokens, self._content = tokens, content
        self._log_once.changed("")


def grant_of(scope: Scope) -> Grant:
    """What the caller of an HTTP request may do; the guard must have admitted it."""
    grant: Grant = scope[GRANT]
    return grant
