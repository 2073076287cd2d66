"""The HTTP door asks for tokens: all of it, each route, and no more than a token is for."""

from collections.abc import Iterator

import httpx
import pytest

from tests.access.conftest import Guarded
from tests.service.images import plain


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def http(guarded: Guarded) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.running.url, timeout=30) as client:
        yield client


def test_every_route_but_the_login_asks_for_a_token(http: httpx.Client, guarded: Guarded) -> None:
    document = http.get("/openapi.json", headers=bearer(guarded.all)).json()
    routes = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert ("post", "/v1/inspect") in routes
    assert document["security"] == [{"token": []}]
    others = [("get", "/openapi.json"), ("get", "/docs"), ("put", "/v1/inspect"), ("get", "/no/such/path")]

    for method, path in [*routes, *others]:
        if path != "/session":
            answer = http.request(method, path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_token_opens_its_products_and_no_other(http: httpx.Client, guarded: Guarded) -> None:
    def asked(secret: str, product: str) -> int:
        url = f"/v1/inspect?product={product}&include="
        return http.post(url, content=plain(9), headers=bearer(secret)).status_code

    assert [asked(guarded.all, name) for name in ("tile", "bolt", "none")] == [200, 200, 404]
    # Nobody learns from a refusal which products there are.
    assert [asked(guarded.tile, name) for name in ("tile", "bolt", "none")] == [200, 403, 403]


def test_products_are_shown_to_whom_they_concern(http: httpx.Client, guarded: Guarded) -> None:
    def names(secret: str) -> list[str]:
        listed = http.get("/v1/products", headers=bearer(secret)).json()["products"]
        return [product["name"] for product in listed]

    assert names(guarded.all) == ["bolt", "tile"]
    assert names(guarded.tile) == ["tile"]
    assert http.get("/v1/products/tile", headers=bearer(guarded.tile)).status_code == 200
    assert http.get("/v1/products/bolt", headers=bearer(guarded.tile)).status_code == 403


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Bearer drd_no-such-token", "not valid"),
        ("Bearer", "needed"),
        ("Basic YTpi", "needed"),
        ("Bearer \xff\xfe", "not valid"),
        (f"Bearer {'x' * 5000}", "not valid"),
    ],
)
def test_what_is_no_token(http: httpx.Client, header: str, told: str) -> None:
    answer = http.get("/v1/products", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert told in answer.json()["detail"]
