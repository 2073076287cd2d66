"""Access control of the gRPC door: every method, reflection too, needs the metadata `authorization: Bearer
TOKEN`. Only the health service does not: kubelets and load balancers can't send metadata."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from service.access.access import Access
from service.errors import Unauthenticated
from service.rpc.convert import CODE

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers only
_OPEN_BELOW = "/grpc.health.v1.Health/"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"


class Guard(grpc.aio.ServerInterceptor):
    """Denies callers without a valid token before their first message is read."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "_Handler | None":
        try:
            if not handler_call_details.method.startswith(_OPEN_BELOW):
                self._access.admit(secret_of(handler_call_details.invocation_metadata))
        except Unauthenticated as error:
            self._access.denied("grpc", error)
            return _denying(error)
        return await continuation(handler_call_details)


def secret_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The token a caller sent with the call."""
    scheme, _, secret = str(dict(metadata or ()).get("authorization", "")).partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _denying(error: Unauthenticated) -> _Handler:
    """A handler that denies calls of any kind: as stream to stream, it need not wait for a message."""

    async def abort(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        await context.abort(CODE[type(error)], str(error))
        yield

    return grpc.stream_stream_rpc_method_handler(abort)
