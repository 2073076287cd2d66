"""The standard health service. Unlike that of grpcio-health-checking, it ends its watches with the server."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import (  # type: ignore[attr-defined]  # two are newer than its types
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

from service.rpc.lenient import lenient_parser

_MALFORMED = HealthCheckRequest(service="a malformed message")
_Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]


class Health:
    """One status for all `services`; NOT_SERVING at first."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = services
        self._ready = self._ending = False
        self._changed = asyncio.Event()

    def methods(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """By name. Unlike the generated code they accept malformed messages: these methods need no token, and
        each such message would be logged with a traceback."""
        parse, serialize = lenient_parser(_MALFORMED), HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.Check, parse, serialize),
            "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, parse, serialize),
            "List": grpc.unary_unary_rpc_method_handler(
                self.List, lambda _: HealthListRequest(), HealthListResponse.SerializeToString
            ),
        }

    async def Check(self, request: HealthCheckRequest, context: _Context) -> HealthCheckResponse:  # noqa: N802
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return self._answer(request.service)

    async def List(  # noqa: N802
        self, request: HealthListRequest, context: _Context
    ) -> HealthListResponse:
        return HealthListResponse(statuses={service: self._answer(service) for service in self._services})

    async def Watch(  # noqa: N802
        self, request: HealthCheckRequest, context: _Context
    ) -> AsyncIterator[HealthCheckResponse]:
        told = None
        while True:
            changed, ending, answer = self._changed, self._ending, self._answer(request.service)
            if answer != told:
                yield answer
                told = answer
            if ending:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is ending")
            await changed.wait()

    def show(self, *, ready: bool) -> None:
        """Sets the status and tells the watches."""
        self._ready = ready
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Tells the watches NOT_SERVING and ends them: a caller would keep one open for ever."""
        self._ending = True
        self.show(ready=False)

    def _answer(self, service: str) -> HealthCheckResponse:
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        status = HealthCheckResponse.SERVING if self._ready else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status)
