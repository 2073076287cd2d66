"""POST /v1/inspect: the hot path, so a plain ASGI application without FastAPI's overhead."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.access.access import grant_of
from service.admission import Holding
from service.calls import Call, Calls
from service.errors import CallerGone, ServiceError, TooLarge, shutting_down
from service.http import wire
from service.http.answers import answer_of
from service.http.form import image_part
from service.http.problems import problem_of
from service.http.protocol import ARRIVED
from service.settings import AROUND_IMAGE, Settings
from service.traces import CARRIED
from service.unread import SMALL, until_read
from service.values import Inspection, Part, Request, parse_id
from service.workers.image import declared_type


class InspectEndpoint:
    """The ASGI application of the route."""

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls, self._inspector = calls, calls.inspector
        self._max_bytes, self._receive_seconds = settings.max_image_bytes, settings.receive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._calls.begin("http", scope[ARRIVED])
        with Holding(self._inspector.admission) as holding:
            try:
                with call, _cut_short():
                    response = await self._answer(call, holding, scope, receive)
            except CallerGone:
                return
            except ServiceError as error:
                response = problem_of(error, call.request_id)
            holding.answer(len(response.body))
            if len(response.body) <= SMALL:
                await response(scope, receive, send)
            else:
                with suppress(asyncio.CancelledError):  # the service ends, and the caller is not reading
                    await response(scope, receive, until_read(send))

    async def _answer(self, call: Call, holding: Holding, scope: Scope, receive: Receive) -> Response:
        headers = wire.headers_of(scope)
        call.carrier = {name: value for name in CARRIED if (value := headers.get(name.encode()))}
        call.request_id = parse_id("X-Request-Id", headers.get(b"x-request-id", "")) or call.request_id
        query = wire.parse_query(scope)
        grant = grant_of(scope)
        call.product, call.caller = parse_id("product", query.get("product", "")), grant.caller
        call.frame_id = parse_id("frame_id", query.get("frame_id", ""))
        options = wire.parse_options(query, headers)
        grant.check(call.product)
        deadline = None if options.deadline_ms is None else call.arrived + options.deadline_ms / 1000
        parts: frozenset[Part] = frozenset({"overlay"}) if options.wants_overlay else options.parts
        self._inspector.check(call.product, options.version, deadline, overlay="overlay" in parts)
        image, media_type = await self._image(receive, headers, holding, call.arrived, deadline)
        request = Request(
            image=image,
            product=call.product,
            arrived=call.arrived,
            deadline=deadline,
            version=options.version,
            parts=parts,
            declared=declared_type(media_type),
        )
        call.inspection = await unless_gone(receive, self._inspector.inspect(request))
        if options.wants_overlay:
            answer = _overlay(call, call.inspection)
        elif "overlay" in parts and len(call.inspection.pictures["overlay"].png) > SMALL:
            answer = await asyncio.to_thread(_json, call, call.inspection)
        else:
            answer = _json(call, call.inspection)
        request.check_deadline()  # encoding it took time
        return answer

    async def _image(
        self,
        receive: Receive,
        headers: dict[bytes, str],
        holding: Holding,
        arrived: float,
        deadline: float | None,
    ) -> tuple[bytes, str]:
        """Content and content type of the image: the body, or a part of it if it is a form."""
        content_type = headers.get(b"content-type", "")
        form = content_type.lower().startswith("multipart/form-data")
        limits = wire.BodyLimits(
            size=self._max_bytes + (AROUND_IMAGE if form else 0),
            until=arrived + self._receive_seconds,
            deadline=deadline,
        )
        body = await wire.read_body(receive, headers, holding, limits)
        if not form:
            return body, content_type
        image, content_type = image_part(body, content_type)
        if len(image) > self._max_bytes:
            raise TooLarge(f"{len(image)} bytes exceed the limit of {self._max_bytes}")
        return image, content_type


@contextmanager
def _cut_short() -> Iterator[None]:
    """A request cancelled while its caller waits was cut off by the shutdown, after drain_seconds."""
    try:
        yield
    except asyncio.CancelledError as error:
        raise shutting_down() from error


async def unless_gone(receive: Receive, work: Awaitable[Inspection]) -> Inspection:
    """The result of `work`. When the caller disconnects, `work` is cancelled and CallerGone raised."""
    waiting = asyncio.current_task()
    assert waiting is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        waiting.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and waiting.uncancel() == 0:
            raise CallerGone("the caller left") from None
        raise
    finally:
        watcher.cancel()


def _json(call: Call, inspection: Inspection) -> Response:
    content = orjson.dumps(answer_of(inspection, call.request_id, call.frame_id))
    return Response(content, media_type="application/json", headers={"x-request-id": call.request_id})


def _overlay(call: Call, inspection: Inspection) -> Response:
    headers = {
        "x-request-id": call.request_id,
        "x-verdict": inspection.result.finding.verdict,
        "x-score": f"{inspection.result.finding.score:.6f}",
    }
    return Response(inspection.pictures["overlay"].png, media_type="image/png", headers=headers)
