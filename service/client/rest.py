"""The REST door."""

import asyncio
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import httpx

from service.client import errors
from service.client.address import Address, Credentials
from service.client.door import as_bad_input, milliseconds_left
from service.client.values import Answer, Frame, Part, Picture, Product, Region, Timings

_ERRORS: dict[int, type[errors.ClientError]] = {
    400: errors.BadInput,
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotLoaded,
    408: errors.BadInput,
    413: errors.TooLarge,
    415: errors.BadInput,
    422: errors.BadInput,
    429: errors.Refused,
    500: errors.InspectionFailed,
    503: errors.NotServing,
    504: errors.DeadlinePassed,
}
_UNDOCUMENTED = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading JSON of another form raises; RecursionError: too deeply nested."""
_KEEP_SECONDS = 30.0
"""An idle connection is closed after this time: well before the service closes it, after 75 s."""
_PROBLEM = "application/problem+json"
"""The type of the service's errors. Others are of something before it, such as a proxy."""


class RestDoor:
    """A Door over HTTP: one request per frame."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        transport = httpx.AsyncHTTPTransport(
            verify=credentials.tls() if address.tls else False,  # without TLS there is nothing to verify
            # One connection per frame in flight: the caller limits these.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_SECONDS),
            uds=address.place if address.unix else None,
            trust_env=False,  # proxies set for office use would cost time
        )
        self._http = httpx.AsyncClient(
            base_url=f"{'https' if address.tls else 'http'}://{'service' if address.unix else address.place}",
            headers=credentials.headers(),
            timeout=None,  # the caller enforces the deadline
            transport=transport,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: a proxy's would pile up
        )

    async def inspect(self, frame: Frame, ends: float) -> Answer:
        with as_bad_input():
            request = self._request(frame, ends)
        response = await self._ask(request)
        try:
            return _answer(response.json())
        except _UNDOCUMENTED as error:
            raise errors.UnexpectedAnswer(f"{self._address} answered, but not with a verdict") from error

    async def products(self) -> tuple[Product, ...]:
        """Every version of every product. The caller enforces the deadline."""
        response = await self._ask(self._http.build_request("GET", "/v1/products"))
        try:
            return tuple(
                _product(product["name"], version)
                for product in response.json()["products"]
                for version in product["versions"]
            )
        except _UNDOCUMENTED as error:
            raise errors.UnexpectedAnswer(f"{self._address} answered, but not with products") from error

    async def close(self) -> None:
        await self._http.aclose()

    def _request(self, frame: Frame, ends: float) -> httpx.Request:
        query: dict[str, str | int] = {"product": frame.product, "include": ",".join(frame.include)}
        if frame.frame_id:
            query["frame_id"] = frame.frame_id
        if frame.version:
            query["version"] = frame.version
        headers = {
            "content-type": "application/octet-stream",  # recognised by content
            "x-deadline-ms": str(milliseconds_left(ends)),
            "x-request-id": frame.request_id,
        }
        image = bytes(frame.image)  # httpx would treat a bytearray, which some drivers give, as a stream
        return self._http.build_request("POST", "/v1/inspect", params=query, headers=headers, content=image)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        """The response if its status is 200; raises ClientError otherwise."""
        try:
            response = await self._send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise errors.Unreachable(f"can't reach {self._address}: {_root(error)}") from error
        except httpx.LocalProtocolError as error:  # nothing has been sent
            raise errors.BadInput(f"the request can't be sent: {error}") from error
        except httpx.DecodingError as error:
            raise errors.UnexpectedAnswer(
                f"the answer of {self._address} can't be decoded: {error}"
            ) from error
        except httpx.RequestError as error:
            raise errors.ConnectionLost(
                f"the connection to {self._address} broke: {str(error) or type(error).__name__}"
            ) from error
        if response.status_code != 200:
            raise _error(response, self._address)
        return response

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Cancels it by anyio's means: by asyncio's, httpx does not always close the connection."""
        scope = anyio.CancelScope()

        async def send() -> httpx.Response:
            with scope:
                return await self._http.send(request)
            raise asyncio.CancelledError

        sending = asyncio.create_task(send())
        try:
            await asyncio.wait({sending})  # from Python 3.14 on, `shield` logs what fails once cancelled
        except asyncio.CancelledError:
            scope.cancel()
            await asyncio.gather(sending, return_exceptions=True)  # until its connection is closed
            raise
        return sending.result()


def _error(response: httpx.Response, address: Address) -> errors.ClientError:
    kind = _ERRORS.get(response.status_code, errors.UnexpectedAnswer)
    own = response.headers.get("content-type", "").partition(";")[0] == _PROBLEM
    try:
        detail = str(response.json()["detail"])
    except _UNDOCUMENTED:
        detail = f"{address} answered {response.status_code} {response.reason_phrase}"
    if issubclass(kind, errors.Refused):
        # Something before the service may say when to retry after the service has had the frame.
        return kind(detail, _seconds(response.headers.get("retry-after", "")) if own else None)
    return kind(detail)


def _seconds(text: str) -> float | None:
    """What a Retry-After header says: seconds or a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _root(error: BaseException) -> BaseException:
    """The original error at the end of the chain of causes."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _answer(given: dict[str, Any]) -> Answer:
    """Raises one of _UNDOCUMENTED if `given` is not an answer as documented."""
    return Answer(
        **_plain(Answer, given["image"] | given),
        verdict=given["verdict"],
        unfamiliar=tuple(map(_text, given.get("unfamiliar", ()))),
        regions=tuple(Region(**_plain(Region, region)) for region in given.get("regions") or ()),
        heatmap=_picture(given, "heatmap"),
        mask=_picture(given, "mask"),
        overlay=_picture(given, "overlay"),
        timings_ms=Timings(**_plain(Timings, given["timings_ms"])),
    )


def _picture(given: Mapping[str, Any], part: Part) -> Picture | None:
    picture = given.get(part)
    if picture is None:
        return None
    return Picture(_whole(picture["width"]), _whole(picture["height"]), binascii.a2b_base64(picture["data"]))


def _product(name: Any, version: dict[str, Any]) -> Product:
    loaded = {key: version[key] or "" for key in ("engine", "bundle_digest")}
    return Product(**_plain(Product, version | loaded | {"name": name}))


def _plain(kind: type[Answer | Region | Timings | Product], given: Mapping[str, Any]) -> dict[str, Any]:
    """The texts and numbers among the fields of `kind`."""
    wanted = {field.name: _READ[field.type] for field in fields(kind) if field.type in _READ}
    return {name: read(given[name]) for name, read in wanted.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    value.encode()  # ValueError for half of a surrogate pair, which JSON can hold and no file
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


_READ: dict[Any, Callable[[Any], Any]] = {str: _text, int: _whole, float: _number}
