"""Responses that callers have not read yet."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import Busy

SMALL = 64 * 1024
"""Bytes that the server writes without waiting for the caller."""
MAX_UNREAD = 128 * 2**20


def until_read(send: Send) -> Send:
    """`send` that returns when the caller has read all of a body but some kilobytes: the server waits for
    that, of each part, before it takes another."""

    async def in_parts(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        body = message["body"]
        for begin in range(0, len(body), SMALL):
            part = body[begin : begin + SMALL]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return in_parts


class UnreadBytes:
    """Limits those that stay in memory though the history may have dropped what they show."""

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
