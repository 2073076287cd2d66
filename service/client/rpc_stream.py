"""The gRPC door with all frames in one InspectStream, which is reopened whenever it has ended.

Uses gRPC's threads, not its asyncio API: when the service ends a stream during a write, that one loses the
status (for one stream in ten), and with it whether the frames may be sent again.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc

from service.client import errors
from service.client.address import Address, Credentials
from service.client.door import milliseconds_left
from service.client.rpc import (
    OPTIONS,
    answer_of,
    channel_credentials,
    error_of,
    error_of_call,
    error_of_first_call,
    message_of,
)
from service.client.threads import in_own_thread
from service.client.values import Answer, Frame
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub

_SILENT_SECONDS = 1.0
"""A working service answers within this time after a missed deadline, if only that the frame is late."""


class RpcStreamDoor:
    """A Door for one stream of frames."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address, self._credentials = address, credentials
        self._metadata = tuple(credentials.headers().items())
        self._channel: grpc.Channel | None = None
        self._opening = asyncio.Lock()
        self._stream: _Stream | None = None

    async def inspect(self, frame: Frame, ends: float) -> Answer:
        message = message_of(frame, ends)
        async with self._opening:
            if self._stream is None or self._stream.ended.is_set() or self._stream.silent:
                self._stream = None
                try:
                    stub = self._connected_anew()
                except OSError as error:  # such as a certificate that is being replaced
                    raise errors.Unreachable(f"can't connect to {self._address}: {error}") from error
                await in_own_thread(self._connect, stub, milliseconds_left(ends) / 1000)
                self._stream = _Stream(stub, self._metadata)
            stream = self._stream
        return await stream.inspect(message, ends)

    async def close(self) -> None:
        try:
            if self._stream is not None:
                await self._stream.close()
        finally:
            if self._channel is not None:
                self._channel.close()

    def _connected_anew(self) -> InspectionServiceStub:
        """A service that ends a stream closes its connection soon, and another may take its place.

        Closing the channel ends frames that still wait on a silent stream with ConnectionLost.
        """
        if self._channel is not None:
            self._channel.close()
        self._channel = _channel(self._address, self._credentials)
        return InspectionServiceStub(self._channel)

    def _connect(self, stub: InspectionServiceStub, seconds: float) -> None:
        """Raises Unreachable or NotServing if no stream can be opened: then nothing has been sent."""
        try:
            stub.ListProducts(pb.ListProductsRequest(), timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            reason = error_of_first_call(error, self._address)
            if isinstance(reason, errors.Unreachable | errors.NotServing):
                raise reason from error


def _channel(address: Address, credentials: Credentials) -> grpc.Channel:
    if address.tls:
        return grpc.secure_channel(address.target, channel_credentials(credentials), OPTIONS)
    return grpc.insecure_channel(address.target, OPTIONS)


class _Sent:
    """A frame that waits for its answer; `may_have_arrived`: at the service."""

    def __init__(self, message: pb.InspectRequest, ends: float) -> None:
        self.message, self.ends = message, ends
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.may_have_arrived = False


class _Stream:
    """One InspectStream call. It ends when the service ends it, the connection breaks, or it is closed."""

    def __init__(self, stub: InspectionServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self.ended = asyncio.Event()
        self._missed: float | None = None
        """When a frame's deadline passed; None: something was received since, or no deadline has passed."""
        self._loop = asyncio.get_running_loop()
        self._outgoing = queue.SimpleQueue[_Sent | None]()
        self._waiting = dict[str, _Sent]()
        """By request id: several frames may show the same part."""
        self._call = stub.InspectStream(self._messages(), metadata=metadata)
        threading.Thread(target=self._read, name="drd-stream", daemon=True).start()

    async def inspect(self, message: pb.InspectRequest, ends: float) -> Answer:
        if message.request_id in self._waiting:
            raise errors.BadInput(f"a frame with request id {message.request_id!r} is in flight already")
        sent = self._waiting[message.request_id] = _Sent(message, ends)
        self._outgoing.put(sent)
        try:
            return await sent.answer
        finally:
            del self._waiting[message.request_id]
            if sent.may_have_arrived and self._missed is None and time.monotonic() >= ends:
                self._missed = ends

    @property
    def silent(self) -> bool:
        """Whether the service seems to hang, though the connection does not break."""
        return self._missed is not None and time.monotonic() - self._missed > _SILENT_SECONDS

    async def close(self) -> None:
        self._call.cancel()
        await self.ended.wait()

    def _messages(self) -> Iterator[pb.InspectRequest]:
        """Runs on gRPC's thread, which takes the next message when it has sent the last."""
        while (sent := self._outgoing.get()) is not None:
            if sent.answer.done():
                continue
            with suppress(errors.DeadlinePassed):  # its caller notices, too
                sent.message.deadline_ms = milliseconds_left(sent.ends)
                sent.may_have_arrived = True
                yield sent.message

    def _read(self) -> None:
        """Runs on a thread of its own."""
        reason: errors.ClientError = errors.ConnectionLost("the service ended the stream")
        try:
            for response in self._call:
                self._loop.call_soon_threadsafe(self._settle, response)
        except grpc.RpcError as error:
            reason = error_of_call(error)
        self._outgoing.put(None)
        self._loop.call_soon_threadsafe(self._end, reason)

    def _settle(self, response: pb.InspectStreamResponse) -> None:
        self._missed = None
        sent = self._waiting.get(response.request_id or response.result.request_id)
        if sent is None or sent.answer.done() or response.frame_id != sent.message.frame_id:
            return  # its caller does not wait any more; another frame may have got the request id since
        if response.HasField("error"):
            sent.answer.set_exception(error_of(response.error))
        else:
            sent.answer.set_result(answer_of(response.result))

    def _end(self, reason: errors.ClientError) -> None:
        self.ended.set()
        unanswered = [sent for sent in self._waiting.values() if not sent.answer.done()]
        largest = max((len(sent.message.image) for sent in unanswered), default=0)
        for sent in unanswered:
            sent.answer.set_exception(
                _error_of_frame(sent, reason, guilty=len(sent.message.image) == largest)
            )


def _error_of_frame(sent: _Sent, reason: errors.ClientError, *, guilty: bool) -> errors.ClientError:
    """The error of one frame after the stream has ended. `guilty`: it is the largest, TooLarge means it."""
    if isinstance(reason, errors.AccessDenied):
        return reason
    if not sent.may_have_arrived:
        return errors.Unreachable("the stream ended before this frame was sent")
    if isinstance(reason, errors.TooLarge) and not guilty:
        return errors.ConnectionLost("a frame that was too large ended the stream")
    return reason
