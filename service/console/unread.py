"""Responses that callers have not read yet. Their bytes are limited: they stay in memory after the history
has dropped them."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import Busy
from service.http.inspect import until_read

MAX_UNREAD = 128 * 2**20


class UnreadBytes:
    """Of such responses."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Raises Busy when `size` bytes and those of others exceed `MAX_UNREAD`."""
        if self.bytes and self.bytes + size > MAX_UNREAD:
            raise Busy("others have not read what they asked for", reason="unread", retry_after=1)
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size


class CountedResponse(Response):
    """Counted until its caller has read it."""

    def __init__(
        self, unread: UnreadBytes, content: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._unread = unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        over = suppress(asyncio.CancelledError)  # the service ends, and the caller is not reading
        with self._unread.holding(len(self.body)), over:
            await super().__call__(scope, receive, until_read(send))
