"""Errors of the HTTP door as problem documents (RFC 9457), and the table from error to status."""

import math
from http import HTTPStatus

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from service import errors

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[errors.ServiceError], int] = {
    errors.BadImage: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.TooSlow: 408,
    errors.TooLarge: 413,
    errors.UnlikeDeclared: 415,
    errors.BadParameter: 422,
    errors.Busy: 429,
    errors.InspectionFailed: 500,
    errors.NotServing: 503,
    errors.DeadlinePassed: 504,
    errors.CallerGone: 400,  # which nobody reads
}


class Problem(BaseModel):
    """`title` is the status in words, `detail` the cause in one line."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None


def problem(
    status: int, detail: str, request_id: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A problem document as a response."""
    document = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id)
    echoed = {"x-request-id": request_id} if request_id else {}
    content = orjson.dumps(document.model_dump(exclude_none=True))
    return Response(content, status, media_type=MEDIA_TYPE, headers=(headers or {}) | echoed)


def raw_response(status: int, detail: str, headers: bytes = b"") -> bytes:
    """A problem document as the bytes of the last response on a connection."""
    title = HTTPStatus(status).phrase
    content = orjson.dumps(Problem(title=title, status=status, detail=detail).model_dump(exclude_none=True))
    head = f"HTTP/1.1 {status} {title}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
    return head.encode() + headers + b"connection: close\r\n\r\n" + content


def problem_of(error: errors.ServiceError, request_id: str | None = None) -> Response:
    """The response to a ServiceError."""
    headers = {}
    if isinstance(error, errors.Refused):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.TooLarge | errors.TooSlow):
        headers["connection"] = "close"  # the rest of the body is not read
    return problem(STATUS[type(error)], str(error), request_id, headers)
