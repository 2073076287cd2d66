"""Access control of the HTTP door: a token in the Authorization header, or in a logged-in person's cookie.

Browsers send a cookie with requests of any page. So with a cookie, only the service's own pages may change
anything (SameSite stops other sites, but not other ports of this machine).
"""

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.access import GRANT, Access
from service.access.tokens import Grant
from service.errors import Denied, Forbidden
from service.http.problems import problem_of
from service.http.wire import headers_of
from service.values import is_id

OPEN = ("/", "/session", "/favicon.ico")
"""What the login page needs; contains nothing about any product."""
OPEN_BELOW = ("/console/", "/docs/assets/")
_READS = ("GET", "HEAD")


class Guard:
    """Admits requests with a valid token, and stores what it grants for `grant_of(scope)`."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_open(scope["path"]):
            try:
                scope[GRANT] = self._admit(scope)
            except Denied as error:
                self._access.denied("http", error)
                sent = headers_of(scope).get(b"x-request-id", "")
                await problem_of(error, sent if sent and is_id(sent) else None)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> Grant:
        headers = headers_of(scope)
        scheme, _, secret = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._access.admit(secret.strip())
        grant = self._access.admit(cookie_of(scope))
        if self._access.needed and scope["method"] not in _READS:
            check_origin(headers, required=True)
        return grant


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_BELOW)


def cookie_name(scope: Scope) -> str:
    """Under TLS a `__Host-` name, which browsers accept only for Secure cookies of this host."""
    return "__Host-drd" if scope["scheme"] == "https" else "drd"


def cookie_of(scope: Scope) -> str | None:
    """The token in the cookie of a logged-in person."""
    return cookie_parser(headers_of(scope).get(b"cookie", "")).get(cookie_name(scope))


def check_origin(headers: dict[bytes, str], *, required: bool) -> None:
    """Raises Forbidden for requests made by a page of another origin. If `required`, also for those without
    an origin, which do not come from a browser."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        own = site == "same-origin"
    elif origin is not None:
        own = origin.partition("://")[2] == headers.get(b"host")
    else:
        own = not required
    if not own:
        raise Forbidden("only the service's own pages may do this with a cookie", reason="origin")
