"""The routes of the HTTP door and of the admin address (health and metrics only)."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.access import Access, grant_of
from service.access.tokens import EVERYTHING, Grant
from service.calls import Calls
from service.console.page import Page
from service.console.routes import verdict_routes
from service.errors import Denied, ServiceError
from service.http import problems
from service.http.answers import Health, Product, Products, product_of
from service.http.guard import Guard
from service.http.inspect import InspectEndpoint
from service.http.openapi import PROBLEM, describe_inspect, require_token
from service.http.session import session_routes
from service.inspector import Inspector
from service.metrics import CONTENT_TYPE, Metrics
from service.readiness import Readiness
from service.settings import Settings


class Api(FastAPI):
    """FastAPI that also answers HEAD wherever it answers GET.

    Its OpenAPI document also covers what is outside it: /v1/inspect and the guard.
    """

    needs_token = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            document = super().openapi()
            describe_inspect(document)
            if self.needs_token:
                require_token(document)
        assert self.openapi_schema is not None
        return self.openapi_schema


def make_app(calls: Calls, access: Access, settings: Settings) -> ASGIApp:
    """The HTTP door: FastAPI for all routes but the hot path /v1/inspect, and the guard before both."""
    inspector = calls.inspector
    inspect = InspectEndpoint(calls, settings)
    app = _app(docs=True)
    app.needs_token = access.needed
    app.router.routes.append(Route("/v1/inspect", inspect, methods=["POST"]))
    app.include_router(session_routes(access, inspector, settings))
    app.include_router(_products(inspector))
    app.include_router(verdict_routes(inspector, calls.history))
    page = Page()  # open to anyone: it asks for a token where one is needed
    app.add_api_route("/", page.index, include_in_schema=False)
    app.mount("/console", page)
    app.include_router(_health(inspector.readiness, calls.metrics, grant_of))

    @app.exception_handler(Denied)
    async def on_denied(request: Request, error: Denied) -> Response:
        asks_whether_to_log_in = request.scope["path"] == "/session" and error.reason == "missing"
        if not asks_whether_to_log_in:
            access.denied("http", error)
        return problems.problem_of(error)

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        hot = scope["path"] == "/v1/inspect" and scope["method"] == "POST"
        await (inspect if hot else app)(scope, receive, send)

    return Guard(door, access)


def make_admin_app(readiness: Readiness, metrics: Metrics) -> FastAPI:
    """The app of the admin address, which needs no token."""
    app = _app(docs=False)
    app.include_router(_health(readiness, metrics, lambda scope: EVERYTHING))
    return app


def _app(*, docs: bool) -> Api:
    app = Api(
        title="DRD Inspect",
        version="1",
        summary="Is this part good?",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        redirect_slashes=False,  # behind a proxy with TLS, it would send tokens to plain HTTP
        exception_handlers={
            HTTPException: _on_http_exception,
            RequestValidationError: _on_validation_error,
            ServiceError: _on_service_error,
            Exception: _on_fault,
        },
    )
    if docs:
        app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))
        app.add_api_route("/docs", _docs, include_in_schema=False)
    return app


def _products(inspector: Inspector) -> APIRouter:
    router = APIRouter(tags=["products"])

    @router.get("/v1/products")
    async def list_products(request: Request) -> Products:
        """Every product the caller may ask for, with all its known versions."""
        grant = grant_of(request.scope)
        products = (each for each in inspector.catalog.products() if grant.covers(each.name))
        return Products(products=[product_of(each) for each in products])

    @router.get("/v1/products/{name}", responses={404: PROBLEM})
    async def get_product(name: str, request: Request) -> Product:
        """One product."""
        grant_of(request.scope).check(name)
        return product_of(inspector.catalog.product(name))

    return router


def _health(readiness: Readiness, metrics: Metrics, grant: Callable[[Scope], Grant]) -> APIRouter:
    router = APIRouter(tags=["operations"])

    def unwell(request: Request) -> Response:
        everything = grant(request.scope).products is None
        return problems.problem(503, readiness.why_not_ready(named=everything))

    @router.get("/health/live", response_model=Health, responses={503: PROBLEM})
    async def live(request: Request) -> Response:
        """503 when only a restart helps."""
        return JSONResponse({"status": "alive"}) if readiness.alive else unwell(request)

    @router.get("/health/ready", response_model=Health, responses={404: PROBLEM, 503: PROBLEM})
    async def ready(request: Request, product: str | None = None) -> Response:
        """Ready while `product`, or else any, can be inspected and the service is not draining."""
        if product is not None and readiness.ready:
            grant(request.scope).check(product)
            readiness.check_product(product)
        return JSONResponse({"status": "ready"}) if readiness.ready else unwell(request)

    @router.get("/metrics", response_class=Response)
    async def scrape(request: Request) -> Response:
        """For Prometheus. They cover all products: a token for some of them is not enough."""
        grant(request.scope).check_all()
        text = await asyncio.to_thread(metrics.text)  # a millisecond for each product
        return Response(text, headers={"content-type": CONTENT_TYPE})

    return router


def _without_body(send: Send) -> Send:
    """Ends the response after its head; a stream would not end by itself."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head


async def _docs() -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="DRD Inspect",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon.png",
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers, detail, path = dict(error.headers or {}), str(error.detail), request.url.path[:100]
    if error.status_code == 404:  # of the router, which gives no more than the status in words
        detail = f"there is no path {path!r} here{': see /docs' if request.app.openapi_url else ''}"
    elif error.status_code == 405:
        detail = f"{path!r} does not take {request.method[:20]}: use {headers.get('Allow', 'GET')}"
    return problems.problem(error.status_code, detail, headers=headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return problems.problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problems.problem_of(error)


async def _on_fault(request: Request, error: Exception) -> Response:
    return problems.problem(500, "the service failed on this request")
