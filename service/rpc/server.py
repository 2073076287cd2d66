"""The gRPC server: the servicer, the standard health service and reflection."""

from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from service.access.access import Access
from service.calls import Calls
from service.listen import SOCKET_MODE, CannotListen, listen, name_of
from service.rpc.guard import Guard
from service.rpc.health import Health
from service.rpc.lenient import lenient_parser
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.servicer import Servicer, methods_of
from service.settings import MEBIBYTE, Address, Settings
from service.tls import Tls

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_NAME = pb.DESCRIPTOR.services_by_name["InspectionService"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_KEEPALIVE_MS = 30_000
_AGE_GRACE_MS = 30_000
_MAX_INT = 2**31 - 2
"""gRPC's numbers are int32, and it takes the largest for "no limit"."""
_MIN_PING_MS = 9_000
"""gRPC's clients ping every 10 s at most; the network may bring two pings closer together."""


def _reflection() -> tuple[grpc.GenericRpcHandler, ...]:
    """Of all services, by both names: v1 has v1alpha's messages. Unlike the generated code it accepts
    malformed ones."""
    servicer = ReflectionServicer((_NAME, _HEALTH, reflection.SERVICE_NAME))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        lenient_parser(ServerReflectionRequest()),
        ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in (reflection.SERVICE_NAME, _REFLECTION_V1)
    )


class Server:
    """One gRPC server on several addresses."""

    def __init__(self, calls: Calls, access: Access, tls: Tls | None, settings: Settings) -> None:
        self._tls = tls
        age = int(1000 * settings.max_connection_age_seconds)
        self._server = grpc.aio.server(
            interceptors=[Guard(access)] if access.needed else [],
            options=[
                # Otherwise a second server would share the port instead of failing.
                ("grpc.so_reuseport", 0),
                # A too large image is answered in-band; only a message above this ends the call.
                ("grpc.max_receive_message_length", min(2 * settings.max_image_bytes + MEBIBYTE, _MAX_INT)),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.max_concurrent_streams", settings.max_calls),
                ("grpc.max_metadata_size", settings.max_head_bytes),
                ("grpc.absolute_max_metadata_size", settings.max_head_bytes),
                ("grpc.server_handshake_timeout_ms", min(int(1000 * settings.head_seconds), _MAX_INT)),
                # Else a stream's window grows to megabytes: hundreds of frames that are not read yet, with
                # deadlines that have not begun. What is larger than the first 64 KiB still gets a window.
                ("grpc.http2.bdp_probe", 0),
                # Strangers, or a caller that forgets its channels, would take all connections there may be.
                ("grpc.max_connection_idle_ms", min(int(1000 * settings.idle_seconds), _MAX_INT)),
                # A camera that loses power does not close its connection.
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
                # gRPC allows callers a ping in five minutes; PLC gateways are usually set to send more.
                ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                # At `age` a stream ends itself, with every frame answered. The connection refuses new calls a
                # quarter later (gRPC varies this by a tenth): if it closed together with its stream, a caller
                # still writing would get a broken pipe instead of the status. gRPC then cuts off only
                # what outlives the grace time.
                ("grpc.max_connection_age_ms", min(age + age // 4 + 1000, _MAX_INT)),
                ("grpc.max_connection_age_grace_ms", min(age + _AGE_GRACE_MS, _MAX_INT)),
            ],
        )
        self._servicer = Servicer(calls, access, settings)
        self._health = Health(("", _NAME))
        methods = grpc.method_handlers_generic_handler(_NAME, methods_of(self._servicer))
        health = grpc.method_handlers_generic_handler(_HEALTH, self._health.methods())
        self._server.add_generic_rpc_handlers((methods, health, *_reflection()))

    def bind(self, address: Address) -> Address:
        """Binds `address` and returns it, with the actual port instead of 0; raises CannotListen."""
        if set(address.path) & set("%#?"):
            raise CannotListen(f"can't listen on {address}: gRPC takes it as a URI, without '%', '#' and '?'")
        with listen(address) as probe:  # its errors are clear, those of gRPC's core are not
            address = name_of(probe)
        try:
            if self._tls is None or address.path:
                self._server.add_insecure_port(str(address))
                if address.path:
                    Path(address.path).chmod(SOCKET_MODE)  # gRPC has made the file again
            else:
                self._server.add_secure_port(str(address), self._tls.credentials())
        except (RuntimeError, OSError) as error:
            raise CannotListen(f"can't listen on {address}: {error}") from error
        return address

    async def start(self) -> None:
        """Starts with the health service at NOT_SERVING."""
        await self._server.start()

    def show(self, *, ready: bool) -> None:
        """Sets what the health service answers."""
        self._health.show(ready=ready)

    async def end_streams(self, seconds: float) -> None:
        """Ends all streams, with every frame answered that has been read; other calls are still served."""
        await self._servicer.end_streams(seconds)

    async def stop(self, seconds: float) -> None:
        """Accepts no more requests; returns when all accepted ones are answered, or after `seconds`."""
        self._servicer.cut_after(seconds)
        self._health.end()
        await self._servicer.refuse()
        await self._server.stop(seconds)

    async def cut(self) -> None:
        """Makes a running `stop` return soon."""
        self._servicer.cut_after(1)
        await self._server.stop(1)
