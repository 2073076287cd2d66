"""The OpenAPI description of POST /v1/inspect, which bypasses FastAPI."""

from typing import Any

from pydantic.json_schema import models_json_schema

from service.http.answers import Answer
from service.http.problems import MEDIA_TYPE, Problem
from service.http.wire import MAX_NUMBER
from service.values import DEFAULT_PARTS, PARTS
from service.workers.image import IMAGE_TYPES

_REF = "#/components/schemas/{model}"
PROBLEM: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}
"""A problem document, in the responses of an operation."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ID = {"type": "string", "maxLength": 128, "pattern": r"^[\x20-\x7e]*$"}
_PROBLEMS = {
    400: "Not a readable image",
    401: "No valid token, where one is needed",
    403: "The token is not for this product",
    404: "Unknown product or version",
    408: "The request took too long to arrive",
    413: "Too many bytes or pixels",
    415: "The content differs from its declared type, or the type is not supported",
    422: "A parameter is missing, unknown or malformed",
    429: "The queue is full, or the deadline can't be met",
    500: "The engine failed on this frame",
    503: "Starting or draining, or no version of the product serves",
    504: "The deadline passed",
}
_RETRY_AFTER = {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}}


def describe_inspect(document: dict[str, Any]) -> None:
    """Adds the operation and its schemas to an OpenAPI document, and problems to all operations."""
    models = models_json_schema([(Answer, "serialization"), (Problem, "serialization")], ref_template=_REF)
    schemas = document["components"]["schemas"]
    schemas |= models[1]["$defs"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which this service never sends
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _problem("What went wrong")
    document["paths"]["/v1/inspect"] = {"post": _operation()}


def require_token(document: dict[str, Any]) -> None:
    """Marks all operations as needing a bearer token."""
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]


def _operation() -> dict[str, Any]:
    return {
        "tags": ["inspection"],
        "operationId": "inspect",
        "summary": "One image, one verdict",
        "description": "`curl --data-binary @part.jpg 'http://HOST:PORT/v1/inspect?product=NAME'`",
        "parameters": [
            _parameter("product", "query", {"type": "string"}, required=True),
            _parameter("version", "query", {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER}),
            _parameter("include", "query", {"type": "string"}, description=_include()),
            _parameter("frame_id", "query", _ID, description="echoed"),
            _parameter("X-Request-Id", "header", _ID, description="echoed; generated if missing"),
            _parameter(
                "X-Deadline-Ms",
                "header",
                {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER},
                description="time budget in ms, from the end of the request's head",
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(IMAGE_TYPES, _BINARY),
                "application/octet-stream": _BINARY,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": _BINARY["schema"]},
                    }
                },
            },
        },
        "responses": {
            "200": {
                "description": "The verdict. With `Accept: image/png` the overlay picture itself.",
                "headers": {
                    name: {"schema": {"type": "string"}} for name in ("X-Request-Id", "X-Verdict", "X-Score")
                },
                "content": {
                    "application/json": {"schema": {"$ref": _REF.format(model="Answer")}},
                    "image/png": _BINARY,
                },
            },
            **{str(status): _problem(description) for status, description in _PROBLEMS.items()},
            **{str(status): _problem(_PROBLEMS[status]) | _RETRY_AFTER for status in (429, 503)},
        },
    }


def _include() -> str:
    default = ",".join(part for part in PARTS if part in DEFAULT_PARTS)
    return f"of {', '.join(PARTS)}, separated by commas; default {default}; empty: numbers only"


def _parameter(
    name: str, place: str, schema: dict[str, Any], *, required: bool = False, description: str = ""
) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, **PROBLEM}
