"""The gRPC server: the servicer, the standard health service and reflection."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from service.access.access import Access
from service.calls import Calls
from service.listen import CannotListen, listen, name_of
from service.rpc.guard import Guard
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.servicer import Servicer, methods_of
from service.settings import MEBIBYTE, Address, Settings
from service.tls import Tls

_NAME = pb.DESCRIPTOR.services_by_name["InspectionService"].full_name
_KEEPALIVE_MS = 30_000


class Server:
    """One gRPC server on several addresses."""

    def __init__(self, calls: Calls, access: Access, tls: Tls | None, settings: Settings) -> None:
        self._tls = tls
        age = int(1000 * settings.max_connection_age_seconds)
        self._server = grpc.aio.server(
            interceptors=[Guard(access)] if access.needed else [],
            options=[
                # Otherwise a second server would share the port instead of being told that it is taken.
                ("grpc.so_reuseport", 0),
                # An image that is a little too large is answered in-band; only absurd ones end the call.
                ("grpc.max_receive_message_length", settings.max_image_bytes + MEBIBYTE),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.max_concurrent_streams", settings.max_calls),
                ("grpc.max_metadata_size", settings.max_head_bytes),
                ("grpc.absolute_max_metadata_size", settings.max_head_bytes),
                ("grpc.server_handshake_timeout_ms", int(1000 * settings.head_seconds)),
                # A camera that lost its power says no goodbye.
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
                # Streams end themselves at the age, all answered. A connection takes no new calls some time
                # after it, although gRPC spreads that by a tenth: were it closed in the moment in which its
                # stream ends, a caller still writing would hear of a broken pipe instead. The transport
                # only cuts off what outlives both.
                ("grpc.max_connection_age_ms", age + age // 4 + 1000),
                (
                    "grpc.max_connection_age_grace_ms",
                    age + int(1000 * settings.max_connection_age_grace_seconds),
                ),
            ],
        )
        self._servicer = Servicer(calls, access, settings)
        self._health = HealthServicer()
        methods = grpc.method_handlers_generic_handler(_NAME, methods_of(self._servicer))
        self._server.add_generic_rpc_handlers((methods,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            self._server,
        )

    def bind(self, address: Address) -> Address:
        """Takes `address`, or raises CannotListen; with port 0 the answer says which port it became."""
        with listen(address) as probe:  # says clearly what is wrong, which gRPC's core does not
            address = name_of(probe)
        try:
            if self._tls is None or address.path:
                self._server.add_insecure_port(str(address))
            else:
                self._server.add_secure_port(str(address), self._tls.credentials())
        except RuntimeError as error:
            raise CannotListen(f"can't listen on {address}: {error}") from error
        return address

    async def start(self) -> None:
        """Not serving until told otherwise, says the health service."""
        await self.show(ready=False)
        await self._server.start()

    async def show(self, *, ready: bool) -> None:
        """What the health service answers."""
        status = health_pb2.HealthCheckResponse
        for name in ("", _NAME):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, seconds: float) -> None:
        """Accepts nothing more; returns when everything accepted has been answered, or after `seconds`."""
        self._servicer.stop_streams()
        await self._server.stop(seconds)

    async def cut(self) -> None:
        """Ends a `stop` that takes too long."""
        await self._server.stop(1)
