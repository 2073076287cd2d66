"""The gRPC door: converts messages to requests and inspections to messages."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio

from service.access.access import Access
from service.admission import Holding
from service.calls import Call, Calls
from service.errors import BadParameter, DeadlinePassed, NotServing, ServiceError, TooLarge, shutting_down
from service.rpc.convert import CODE, product_of, response_of, status_of, trailing_of
from service.rpc.guard import secret_of
from service.rpc.lenient import lenient_parser
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.stream import Stream, Turn
from service.settings import Settings
from service.traces import CARRIED
from service.values import DEFAULT_PARTS, Request, parse_id, parse_parts

Metadata = Mapping[str, str | bytes]
_MALFORMED = pb.InspectRequest()
_Context = grpc.aio.ServicerContext[object, object]
_LINGER_SECONDS = 0.5
"""For which connections outlive streams and calls. If they ended together, a caller that is still writing to
its stream would get a broken pipe and not the status; and gRPC cancels, without a word to anybody, calls that
arrive before their caller has learned of the end."""


class Servicer:
    """The methods of InspectionService."""

    def __init__(self, calls: Calls, access: Access, settings: Settings) -> None:
        self._calls, self._inspector, self._access = calls, calls.inspector, access
        self._max_bytes, self._window = settings.max_image_bytes, settings.stream_window
        self._answer_seconds = settings.answer_seconds
        self._max_age = settings.max_connection_age_seconds
        self._streams = dict[asyncio.Task[object], Stream]()
        self._used = self._ending = self._refusing = False
        self._cut = math.inf

    async def Inspect(self, request: pb.InspectRequest, context: _Context) -> pb.InspectResponse:  # noqa: N802
        task, holding = asyncio.current_task(), Holding(self._inspector.admission)
        assert task is not None
        # gRPC ends the task when the caller has read the answer: until then its bytes count.
        task.add_done_callback(lambda _: holding.release())
        try:
            return await self._inspect(request, holding, _deadline(context), _metadata(context))
        except ServiceError as error:
            await _abort(context, error)

    async def InspectStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.InspectRequest], context: _Context
    ) -> None:
        deadline, metadata = _deadline(context), _metadata(context)

        async def respond(request: pb.InspectRequest, turn: Turn) -> pb.InspectStreamResponse:
            try:
                with Holding(self._inspector.admission) as holding:
                    result = await self._inspect(request, holding, deadline, metadata, turn)
            except ServiceError as error:
                return pb.InspectStreamResponse(
                    frame_id=request.frame_id, request_id=request.request_id, error=status_of(error)
                )
            return pb.InspectStreamResponse(
                frame_id=request.frame_id, request_id=request.request_id, result=result
            )

        stream = Stream(request_iterator, respond, self._window)
        self._follow(stream)
        aging = asyncio.get_running_loop().call_later(self._max_age, stream.stop_reading)
        try:
            async with aclosing(stream.responses()) as responses:
                async for response in responses:
                    await self._write(context, response)
        except DeadlinePassed as error:
            await _abort(context, error)
        finally:
            aging.cancel()
        if not stream.complete:
            await _abort(context, _reconnect())

    async def ListProducts(  # noqa: N802
        self, request: pb.ListProductsRequest, context: _Context
    ) -> pb.ListProductsResponse:
        try:
            grant = self._access.admit(secret_of(_metadata(context).items()))
        except ServiceError as error:  # it has become invalid since the guard checked it
            await _abort(context, error)
        if self._ending:  # the client asks before it opens a stream
            await _abort(context, _reconnect())
        versions = (each for each in self._inspector.catalog.versions() if grant.covers(each.product))
        return pb.ListProductsResponse(products=map(product_of, versions))

    def cut_after(self, seconds: float) -> None:
        """Calls are cancelled in so many seconds at the latest."""
        self._cut = min(self._cut, time.monotonic() + seconds)

    async def end_streams(self, seconds: float) -> None:
        """Streams read no more requests. Returns when those read are answered, or after `seconds`."""
        self._ending = True
        for stream in self._streams.values():
            stream.stop_reading()
        if self._streams:
            await asyncio.wait(self._streams, timeout=seconds)

    async def refuse(self) -> None:
        """Refuses calls from now on. Returns when callers know that, and that their streams have ended."""
        self._refusing = True
        if self._used:
            await asyncio.sleep(_LINGER_SECONDS)

    def _follow(self, stream: Stream) -> None:
        """Registers a stream for the shutdown until its task ends: by then its status has been sent."""
        task = asyncio.current_task()
        assert task is not None
        self._used = True
        self._streams[task] = stream
        task.add_done_callback(self._streams.pop)
        if self._ending:
            stream.stop_reading()

    async def _write(self, context: _Context, response: pb.InspectStreamResponse) -> None:
        """Raises DeadlinePassed if the caller does not read it: frames behind it would be held for as long as
        the connection lasts."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                await context.write(response)
        except TimeoutError as error:
            raise DeadlinePassed(f"a response was not read within {self._answer_seconds:g} s") from error

    async def _inspect(
        self,
        message: pb.InspectRequest,
        holding: Holding,
        deadline: float | None,
        metadata: Metadata,
        turn: Turn | None = None,
    ) -> pb.InspectResponse:
        self._used = True
        with self._calls.begin("grpc") as call:
            call.deadline = deadline
            try:
                request = self._request(call, holding, message, metadata)
                call.inspection = await self._inspector.inspect(request)
                response = response_of(call.inspection, call.request_id, call.frame_id)
                holding.answer(holding.bytes + response.ByteSize())  # gRPC keeps the request, too
            except asyncio.CancelledError as error:
                if time.monotonic() < self._cut:
                    raise
                raise shutting_down() from error
            if turn is not None:
                await _in_time(turn, request)
            request.check_deadline()  # encoding it took time
            return response

    def _request(
        self, call: Call, holding: Holding, message: pb.InspectRequest, metadata: Metadata
    ) -> Request:
        if self._refusing:
            raise shutting_down()
        if message is _MALFORMED:
            raise BadParameter("the message is malformed")
        call.carrier = {name: str(metadata[name]) for name in CARRIED if name in metadata}
        call.product = parse_id("product", message.product)
        call.request_id = parse_id("request_id", message.request_id) or call.request_id
        call.frame_id = parse_id("frame_id", message.frame_id)
        # Checked for every frame: a stream may outlive its token.
        grant = self._access.admit(secret_of(metadata.items()))
        call.caller = grant.caller
        if not call.product:
            raise BadParameter("the field 'product' is missing")
        grant.check(call.product)
        image = message.image  # each look at it makes a copy
        if len(image) > self._max_bytes:
            raise TooLarge(f"{len(image)} bytes exceed the limit of {self._max_bytes}")
        holding.grow(message.ByteSize())
        own = call.arrived + message.deadline_ms / 1000 if message.deadline_ms else None
        return Request(
            image=image,
            product=call.product,
            arrived=call.arrived,
            deadline=min((each for each in (own, call.deadline) if each is not None), default=None),
            version=message.version or None,
            parts=parse_parts(message.include) if message.include else DEFAULT_PARTS,
        )


def methods_of(servicer: Servicer) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """The methods by name. Unlike the generated code they accept malformed messages, so that one in a stream
    is answered in-band."""
    parse = lenient_parser(_MALFORMED)
    return {
        "Inspect": grpc.unary_unary_rpc_method_handler(
            servicer.Inspect, parse, pb.InspectResponse.SerializeToString
        ),
        "InspectStream": grpc.stream_stream_rpc_method_handler(
            servicer.InspectStream, parse, pb.InspectStreamResponse.SerializeToString
        ),
        "ListProducts": grpc.unary_unary_rpc_method_handler(
            servicer.ListProducts,
            lambda _: pb.ListProductsRequest(),
            pb.ListProductsResponse.SerializeToString,
        ),
    }


def _reconnect() -> NotServing:
    return NotServing(
        "the service is ending or the stream has reached its greatest age: open a new one",
        reason="reconnect",
        retry_after=0.1,
    )


async def _in_time(turn: Turn, request: Request) -> None:
    """Raises DeadlinePassed at the deadline: the caller may not be reading."""
    try:
        async with asyncio.timeout_at(request.deadline):
            await turn()
    except TimeoutError as error:
        raise DeadlinePassed("the deadline passed before the answer could be written") from error


def _deadline(context: _Context) -> float | None:
    """The call's own deadline, an instant of `time.monotonic`."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _metadata(context: _Context) -> Metadata:
    return dict(context.invocation_metadata() or ())


async def _abort(context: _Context, error: ServiceError) -> NoReturn:
    await context.abort(CODE[type(error)], str(error), trailing_of(error))
