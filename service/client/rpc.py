"""The gRPC door, one call per frame."""

import secrets
from collections.abc import Awaitable, Iterable
from typing import TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from service.client import errors
from service.client.address import Address, Credentials
from service.client.door import as_bad_input, milliseconds_left
from service.client.values import Answer, Frame, Picture, Product, Region, Timings, Verdict
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", -1),  # an overlay may be large
    ("grpc.max_send_message_length", -1),
    # After a restart of the service, reconnect within about a second, not a minute.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Data not acknowledged for 3 s breaks the connection (this sets TCP_USER_TIMEOUT), so that a network that
    # was interrupted is used again at once. The ping itself is rarer than the minimum servers enforce.
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.enable_http_proxy", 0),  # proxies set for office use would cost time
    ("grpc.use_local_subchannel_pool", 1),  # each client has a connection of its own
]
_Message = TypeVar("_Message")
_ERRORS: dict[int, type[errors.ClientError]] = {
    code.value[0]: kind
    for code, kind in {
        grpc.StatusCode.INVALID_ARGUMENT: errors.BadInput,
        grpc.StatusCode.NOT_FOUND: errors.NotLoaded,
        grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
        grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.TooLarge,
        grpc.StatusCode.UNAVAILABLE: errors.ConnectionLost,
        grpc.StatusCode.CANCELLED: errors.ConnectionLost,
        grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlinePassed,
        grpc.StatusCode.INTERNAL: errors.InspectionFailed,
    }.items()
}


class RpcDoor:
    """A Door over gRPC: one call per frame."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._metadata = tuple(credentials.headers().items())
        if address.tls:
            self._channel = grpc.aio.secure_channel(address.target, channel_credentials(credentials), OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address.target, OPTIONS)
        self._stub = InspectionServiceStub(self._channel)

    async def inspect(self, frame: Frame, ends: float) -> Answer:
        message = message_of(frame, ends)
        await self._connect(message.deadline_ms / 1000)
        message.deadline_ms = milliseconds_left(ends)
        try:
            response = await self._received(
                self._stub.Inspect(message, timeout=message.deadline_ms / 1000, metadata=self._metadata)
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        return answer_of(response)

    async def products(self) -> tuple[Product, ...]:
        """Every version of every product. The caller enforces the deadline."""
        await self._connect()
        try:
            return await self._products()
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error

    async def _connect(self, seconds: float | None = None) -> None:
        """Ensures that there is a connection, or raises Unreachable: then nothing has been sent."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            await self._products(seconds)
        except grpc.aio.AioRpcError as error:
            reason = error_of_first_call(error, self._address)
            if isinstance(reason, errors.Unreachable):
                raise reason from error

    async def close(self) -> None:
        await self._channel.close()

    async def _products(self, seconds: float | None = None) -> tuple[Product, ...]:
        call = self._stub.ListProducts(pb.ListProductsRequest(), timeout=seconds, metadata=self._metadata)
        return tuple(_product(product) for product in (await self._received(call)).products)

    async def _received(self, call: Awaitable[_Message | None]) -> _Message:
        """The call's answer. gRPC gives None for one that is missing, cut or garbled."""
        if (answer := await call) is None:
            raise errors.UnexpectedAnswer(f"the answer of {self._address} can't be decoded")
        return answer


def message_of(frame: Frame, ends: float) -> pb.InspectRequest:
    """Raises BadInput if the frame can't be encoded, DeadlinePassed if it is too late for it."""
    with as_bad_input():
        return pb.InspectRequest(
            image=bytes(frame.image),
            product=frame.product,
            version=frame.version or 0,
            frame_id=frame.frame_id,
            include=list(frame.include) or [""],
            deadline_ms=milliseconds_left(ends),
            # In a stream, it tells whose answer comes.
            request_id=frame.request_id or secrets.token_hex(8),
        )


def answer_of(response: pb.InspectResponse) -> Answer:
    timings = response.timings_ms
    return Answer(
        request_id=response.request_id,
        frame_id=response.frame_id,
        product=response.product,
        version=response.version,
        bundle_digest=response.bundle_digest,
        engine=response.engine,
        verdict=cast(Verdict, response.verdict),
        reason=response.reason,
        unfamiliar=tuple(response.unfamiliar),
        score=response.score,
        threshold=response.threshold,
        raw_score=response.raw_score,
        raw_threshold=response.raw_threshold,
        width=response.image.width,
        height=response.image.height,
        sha256=response.image.sha256,
        regions=tuple(Region(r.x, r.y, r.width, r.height, r.area, r.peak) for r in response.regions),
        heatmap=_picture(response.heatmap) if response.HasField("heatmap") else None,
        mask=_picture(response.mask) if response.HasField("mask") else None,
        overlay=_picture(response.overlay) if response.HasField("overlay") else None,
        timings_ms=Timings(*(getattr(timings, stage) for stage in Timings.__slots__)),
        batch_size=response.batch_size,
    )


def error_of(status: status_pb2.Status) -> errors.ClientError:
    """A refusal carries RetryInfo. Without it, RESOURCE_EXHAUSTED is TooLarge, UNAVAILABLE the transport."""
    kind = _ERRORS.get(status.code, errors.UnexpectedAnswer)
    retry = error_details_pb2.RetryInfo()
    try:
        is_refusal = any(detail.Unpack(retry) for detail in status.details)
    except DecodeError:
        return errors.UnexpectedAnswer("the error's details are garbled")
    if is_refusal:
        refused = errors.NotServing if kind is errors.ConnectionLost else errors.Refused
        return refused(status.message, retry.retry_delay.ToMilliseconds() / 1000)
    return kind(status.message)


def error_of_call(error: grpc.RpcError | grpc.aio.AioRpcError) -> errors.ClientError:
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    for name, value in metadata:
        if name == "grpc-status-details-bin":
            try:
                return error_of(status_pb2.Status.FromString(cast(bytes, value)))
            except DecodeError:
                return errors.UnexpectedAnswer("the error's details are garbled")
    said = error.details() or error.code().name
    if error.code() is grpc.StatusCode.INTERNAL:  # not the service, which gives details, but the transport
        return errors.ConnectionLost(said)
    return error_of(status_pb2.Status(code=error.code().value[0], message=said))


def error_of_first_call(error: grpc.RpcError | grpc.aio.AioRpcError, address: Address) -> errors.ClientError:
    """Of a harmless call that shows, before a frame is sent, whether there is a connection.

    Unreachable means that there is none. Other errors come from the service: the frame's own call gets them.
    """
    reason = error_of_call(error)
    if isinstance(reason, errors.ConnectionLost):
        return errors.Unreachable(f"can't reach {address}: {reason}")
    return reason


def _picture(picture: pb.Picture) -> Picture:
    return Picture(picture.width, picture.height, picture.data)


def _product(product: pb.Product) -> Product:
    return Product(
        product.name, product.version, product.state, product.reason, product.engine, product.bundle_digest
    )


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    if credentials.ca or credentials.certificate:
        credentials.tls()  # raises OSError for a file that gRPC would only log
    chain, key = credentials.certificate or (None, None)
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.ca.read_bytes() if credentials.ca else None,
        private_key=key.read_bytes() if key else None,
        certificate_chain=chain.read_bytes() if chain else None,
    )
