"""Who gets through the HTTP door: a bearer's token in the Authorization header, or a person's in a cookie.

A cookie is sent by the browser whoever makes it: so where it is what lets a caller in, only the service's own
pages may change anything (SameSite keeps other sites out, but not other ports of this machine).
"""

from urllib.parse import urlsplit

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.access import Access
from service.access.granted import GRANT
from service.access.tokens import Grant
from service.errors import Denied, Forbidden
from service.http.problems import problem_of
from service.http.wire import headers_of

OPEN = ("/", "/session", "/favicon.ico")
"""What a page needs to let a person log in: no fact of any product is there."""
OPEN_BELOW = ("/console/", "/docs/assets/")
_READS = ("GET", "HEAD")


class Guard:
    """Lets through who may ask; what they may do is `grant_of(scope)` from then on."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                scope[GRANT] = self._admit(scope)
            except Denied as error:
                self._access.denied("http", error)
                await problem_of(error)(scope, receive, send)
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
    """Under TLS a name that browsers keep for cookies that are Secure and this host's own."""
    return "__Host-drd" if scope["scheme"] == "https" else "drd"


def cookie_of(scope: Scope) -> str | None:
    """The token in the cookie of a person who has logged in."""
    return cookie_parser(headers_of(scope).get(b"cookie", "")).get(cookie_name(scope))


def check_origin(headers: dict[bytes, str], *, required: bool) -> None:
    """Raises Forbidden for what a browser sends on behalf of another origin; `required`: for what does not
    come from a browser, either."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        own = site == "same-origin"
    elif origin is not None:
        own = urlsplit(origin).netloc == headers.get(b"host")
    else:
        own = not required
    if not own:
        raise Forbidden("only the service's own pages may do this with a cookie", reason="origin")
