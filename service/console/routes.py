"""The routes of the operator page's data."""

import asyncio
from functools import partial
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from export.bundle import Verdict, heatmap_png
from service.access.access import grant_of
from service.console.events import events, listed
from service.console.state import state_of
from service.history import MAX_RECORDS, History, Sees
from service.inspector import Inspector
from service.unread import CountedResponse, UnreadBytes
from service.values import SentImage

THUMBNAIL_SIDE, FRAME_SIDE = 160, 2400
"""Pixels of the longer side, at most."""
_SMALL_BYTES, _SMALL_PIXELS = 48 * 1024, 512 * 512
_STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_IMAGE_HEADERS = {
    "cache-control": "private, max-age=3600, immutable",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
}
_PNG, _JPEG = "image/png", "image/jpeg"
_SHOWN = (_PNG, _JPEG, "image/bmp")
"""What browsers show."""


def verdict_routes(inspector: Inspector, history: History) -> APIRouter:
    """The newest verdicts: as a list, live, and with their images."""
    router = APIRouter(prefix="/v1/verdicts", tags=["verdicts"])
    unread, listing = UnreadBytes(), asyncio.Lock()

    def picture(content: bytes, media_type: str) -> Response:
        return CountedResponse(unread, content, media_type, _IMAGE_HEADERS)

    @router.get("")
    async def list_verdicts(
        request: Request,
        product: str | None = None,
        verdict: Verdict | None = None,
        frame_id: str | None = None,
        request_id: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 100,
    ) -> Response:
        """The newest verdicts that this process gave and still keeps, newest first."""
        sees = _sees(request)
        chosen = (
            record
            for record in history.latest(sees, MAX_RECORDS)
            if product in (None, record.result.product)
            and verdict in (None, record.result.finding.verdict)
            and frame_id in (None, record.frame_id)
            and request_id in (None, record.request_id)
        )
        records, counts = list(islice(chosen, limit)), history.counts_of(sees)
        async with listing:  # one at a time: what is not finished is not counted
            content = await listed(records, history.id, counts=counts)
        return CountedResponse(unread, content, "application/json")

    @router.get("/events", response_class=StreamingResponse)
    async def verdict_events(
        request: Request, after: str = "", last_event_id: Annotated[str, Header()] = ""
    ) -> StreamingResponse:
        """Live verdicts: server-sent events `verdicts` (records, counts) and `state`."""
        sees = _sees(request)
        state = partial(state_of, inspector, history, grant_of(request.scope))
        stream = events(history.watch(), history, sees, state, last_event_id or after)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_STREAM_HEADERS)

    @router.get("/{verdict_id}")
    async def get_verdict(request: Request, verdict_id: str) -> dict[str, Any]:
        """One verdict."""
        return history.get(verdict_id, _sees(request)).facts(history.id)

    @router.get("/{verdict_id}/frame", response_class=Response)
    async def get_frame(request: Request, verdict_id: str) -> Response:
        """The image as it was sent; a TIFF as a JPEG of at most 2400 pixels per side."""
        image = history.image(verdict_id, _sees(request))
        own = _as_it_is(image)
        return picture(*own or (await inspector.preview(image.file, FRAME_SIDE), _JPEG))

    @router.get("/{verdict_id}/thumbnail", response_class=Response)
    async def get_thumbnail(request: Request, verdict_id: str) -> Response:
        """A small JPEG of the image; an image that is small already is sent as it is."""
        image = history.image(verdict_id, _sees(request))
        own = _as_it_is(image) if _is_small(image) else None
        return picture(*own or (await inspector.preview(image.file, THUMBNAIL_SIDE), _JPEG))

    @router.get("/{verdict_id}/heatmap", response_class=Response)
    async def get_heatmap(request: Request, verdict_id: str) -> Response:
        """The map as 8-bit grey PNG: 128 and above is over the threshold."""
        heatmap = history.image(verdict_id, _sees(request)).heatmap
        if not isinstance(heatmap, bytes):
            heatmap = await asyncio.to_thread(heatmap_png, heatmap)
        return picture(heatmap, _PNG)

    return router


def _sees(request: Request) -> Sees:
    return grant_of(request.scope).covers


def _is_small(image: SentImage) -> bool:
    return len(image.file) <= _SMALL_BYTES and image.size.width * image.size.height <= _SMALL_PIXELS


def _as_it_is(image: SentImage) -> tuple[bytes, str] | None:
    """The image and its media type, if browsers show it."""
    return (image.file, image.media_type) if image.media_type in _SHOWN else None
