"""Login for people: the page sends a token once, and the browser keeps it in a cookie no script can read.

    POST   /session   {"token": "drd_…"}   204 and the cookie; 401 unless the token is valid
    GET    /session                        200 {"needed", "caller", "products"}; 401 before login
    DELETE /session                        204, the cookie is gone

The cookie is the token itself: valid at every replica for the same products, and only while the token is in
the tokens file. `needed` is false where no token is needed.
"""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from service.access.access import Access
from service.admission import Holding
from service.errors import BadParameter
from service.http import wire
from service.http.guard import check_origin, cookie_name, cookie_of
from service.inspector import Inspector
from service.settings import Settings

_MAX_BYTES = 4096
_MAX_AGE_SECONDS = 12 * 3600
"""The browser drops it after a shift."""


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str


class Session(BaseModel):
    """Who is logged in, and for which products; null: all of them."""

    needed: bool
    caller: str
    products: list[str] | None


_LOGIN: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": Login.model_json_schema()}}}
}


def session_routes(access: Access, inspector: Inspector, settings: Settings) -> APIRouter:
    """The three routes above. The guard lets them pass; they check access themselves."""
    router = APIRouter(prefix="/session", tags=["session"])

    @router.get("")
    async def show(request: Request) -> Session:
        """Who is logged in here."""
        grant = access.admit(cookie_of(request.scope))
        products = None if grant.products is None else sorted(grant.products)
        return Session(needed=access.needed, caller=grant.caller, products=products)

    @router.post("", status_code=204, openapi_extra=_LOGIN)
    async def log_in(request: Request) -> Response:
        """Takes a token and sets the cookie."""
        headers = wire.headers_of(request.scope)
        check_origin(headers, required=False)
        limits = wire.BodyLimits(_MAX_BYTES, time.monotonic() + settings.receive_seconds, None)
        with Holding(inspector.admission) as holding:
            body = await wire.read_body(request.receive, headers, holding, limits)
        try:
            token = Login.model_validate_json(body).token
        except ValidationError as error:  # its message would contain the token
            raise BadParameter('the body is not {"token": "…"}') from error
        access.admit(token)
        if not access.needed:
            return Response(status_code=204)
        return _with_cookie(request, token, _MAX_AGE_SECONDS)

    @router.delete("", status_code=204)
    async def log_out(request: Request) -> Response:
        """Removes the cookie. The token stays valid until it is removed from the tokens file."""
        check_origin(wire.headers_of(request.scope), required=False)
        return _with_cookie(request, "", 0)

    return router


def _with_cookie(request: Request, value: str, max_age: int) -> Response:
    response = Response(status_code=204, headers={"cache-control": "no-store"})
    response.set_cookie(
        cookie_name(request.scope),
        value,
        max_age=max_age,
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
    return response
