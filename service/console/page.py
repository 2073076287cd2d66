"""The operator page's static files."""

import mimetypes
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No other origins, no inline code, no scripts from strings; `blob:` and `data:` are images."""
_HEADERS = {
    "content-security-policy": _POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # revalidated each time with an ETag, so that the page is never outdated
}
_TYPES = {".woff2": "font/woff2", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Media types that some Pythons or systems lack, or know by another name."""


class Page(StaticFiles):
    """Answers `/console/…`, and `/` by `index`."""

    def __init__(self) -> None:
        super().__init__(packages=[("service.console", "assets")])
        for suffix, kind in _TYPES.items():
            mimetypes.add_type(kind, suffix)

    async def index(self, request: Request) -> Response:
        return await self.get_response("index.html", request.scope)

    def file_response(self, *given: Any, **options: Any) -> Response:
        response = super().file_response(*given, **options)
        response.headers.update(_HEADERS)
        return response
