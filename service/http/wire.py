"""Reads HTTP requests: headers, the query and options of /v1/inspect, a body within limits."""

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from export.bundle import MAX_VERSION
from service.admission import Holding
from service.errors import BadParameter, CallerGone, DeadlinePassed, TooLarge, TooSlow, UnlikeDeclared
from service.values import DEFAULT_PARTS, Part, parse_parts

PARAMETERS = ("product", "version", "include", "frame_id")
MAX_NUMBER = MAX_VERSION
"""The largest version, and the longest deadline in milliseconds."""
_QUALITY = re.compile(r";\s*q=(0(?:\.[0-9]*)?|1(?:\.0*)?)\s*(?:;|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`size` in bytes; `until` (body) and `deadline` (answer) are instants of `time.monotonic`."""

    size: int
    until: float
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Options:
    """How a caller of /v1/inspect wants its image inspected and answered."""

    version: int | None
    parts: frozenset[Part]
    deadline_ms: int | None
    wants_overlay: bool


def headers_of(scope: Scope) -> dict[bytes, str]:
    """Headers by lower-case name, without the blanks around their values; repeated ones are joined, as RFC
    9110, 5.3 has it."""
    headers = dict[bytes, str]()
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip(" \t")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


def parse_query(scope: Scope) -> dict[str, str]:
    """The parameters by name. Raises BadParameter for malformed, unknown or repeated ones."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=16, errors="strict"
        )
    except ValueError as error:
        raise BadParameter("the query is malformed") from error
    query = dict(pairs)
    if unknown := query.keys() - PARAMETERS:
        raise BadParameter(f"unknown parameter {min(unknown)[:100]!r}: use {', '.join(PARAMETERS)}")
    if len(query) < len(pairs):
        names = [name for name, _ in pairs]
        raise BadParameter(f"the parameter {max(names, key=names.count)!r} is given more than once")
    return query


def parse_options(query: dict[str, str], headers: dict[bytes, str]) -> Options:
    """Raises BadParameter for missing or malformed parameters, UnlikeDeclared for a compressed body."""
    encoding = headers.get(b"content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise UnlikeDeclared(
            f"Content-Encoding {encoding[:100]!r} is not supported: send the image as it is, without one"
        )
    if not query.get("product"):
        raise BadParameter("the parameter 'product' is missing")
    version = query.get("version")
    return Options(
        version=None if version is None else _whole("version", version),
        parts=parse_parts(query["include"].split(",")) if "include" in query else DEFAULT_PARTS,
        deadline_ms=_whole("X-Deadline-Ms", headers[b"x-deadline-ms"])
        if b"x-deadline-ms" in headers
        else None,
        wants_overlay=prefers_overlay(headers.get(b"accept", "")),
    )


def prefers_overlay(accept: str) -> bool:
    """Whether an Accept header asks for the overlay itself rather than for JSON."""
    for offer in sorted(filter(_quality, accept.split(",")), key=_quality, reverse=True):
        kind = offer.partition(";")[0].strip().lower()
        if kind in ("application/json", "*/*", "application/*"):
            return False
        if kind == "image/png":
            return True
    return False


def _quality(offer: str) -> float:
    """The q of a media range in an Accept header, 0 to 1; 1 without one."""
    found = _QUALITY.search(offer)
    return float(found[1]) if found else 1.0


async def read_body(
    receive: Receive, headers: dict[bytes, str], holding: Holding, limits: BodyLimits
) -> bytes:
    """The whole body, counted while it arrives. TooLarge, TooSlow, Busy, DeadlinePassed, CallerGone."""
    try:
        announced = headers.get(b"content-length", "")
        if announced.isdigit() and int(announced) > limits.size:
            raise TooLarge(f"{announced} bytes exceed the limit of {limits.size}")
        async with asyncio.timeout_at(min(limits.until, limits.deadline or limits.until)):
            return await _collect(receive, holding, limits.size)
    except TimeoutError as error:
        if limits.deadline is not None and limits.deadline < limits.until:
            raise DeadlinePassed("the deadline passed before the request had arrived") from error
        raise TooSlow("the request took too long to arrive") from error


async def _collect(receive: Receive, holding: Holding, limit: int) -> bytes:
    chunks, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("the caller left while sending")
        chunk: bytes = message.get("body", b"")
        holding.grow(len(chunk))
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body exceeds the limit of {limit} bytes")
        if not message.get("more_body"):
            return b"".join(chunks)


def _whole(name: str, text: str) -> int:
    """Leading zeros count as digits: there may be as many as `MAX_NUMBER` has."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NUMBER))
    if not (digits and 1 <= int(text) <= MAX_NUMBER):
        raise BadParameter(f"{name} {text[:100]!r} is not a whole number from 1 to {MAX_NUMBER}")
    return int(text)
