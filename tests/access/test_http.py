"""The HTTP door asks for tokens: all of it, each route, and no more than a token is for."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access.conftest import Guarded, Tokens
from tests.bundles import make_bundle
from tests.e2e.serving import ANYWHERE, serving
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


def test_trailer_fields_are_no_header_fields(guarded: Guarded) -> None:
    def asked(head: str, trailer: str) -> bytes:
        body = plain(9)
        sent = (
            f"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{head}\r\n"
        )
        last = f"\r\n0\r\n{trailer}\r\n"
        with guarded.running.connected() as connection:
            connection.sendall(sent.encode() + b"%x\r\n" % len(body) + body + last.encode())
            return connection.recv(12)

    token, wrong = f"Authorization: Bearer {guarded.all}\r\n", "Authorization: Bearer drd_no\r\n"
    assert asked("", token) == b"HTTP/1.1 401"
    assert asked(token, f"{wrong}X-Deadline-Ms: soon\r\nContent-Type: text/plain\r\n") == b"HTTP/1.1 200"
    assert asked(token, f"Long: {'x' * 40_000}\r\n") == b"HTTP/1.1 431"


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


def test_metrics_tell_of_all_products_and_so_only_whom_all_concern(
    http: httpx.Client, guarded: Guarded
) -> None:
    answer = http.get("/metrics", headers=bearer(guarded.tile))
    assert (answer.status_code, answer.json()["detail"]) == (403, "this token is not for all products")
    assert 'product="bolt"' in http.get("/metrics", headers=bearer(guarded.all)).text
    assert 'product="bolt"' in httpx.get(f"http://{guarded.running.service.admin[0]}/metrics").text


def test_why_another_product_failed_is_not_told(tmp_path: Path) -> None:
    models, tokens = tmp_path / "models", Tokens(tmp_path / "tokens")
    make_bundle(models, "bolt", golden_scores=[0.5] * 4)  # which its network does not give
    every, tile = bearer(tokens.add("all")), bearer(tokens.add("tile-only", "tile"))
    with serving(models, tokens=tokens.path, admin=ANYWHERE) as running:

        def told(url: str, headers: dict[str, str] | None = None) -> str:
            answer = httpx.get(f"{url}/health/ready", headers=headers)
            assert answer.status_code == 503
            return str(answer.json()["detail"])

        def shown(headers: dict[str, str]) -> str:
            url = f"{running.url}/v1/verdicts/events"
            with httpx.stream("GET", url, headers=headers, timeout=30) as answer:
                data = next(line for line in answer.iter_lines() if line.startswith("data: "))
            return str(json.loads(data.removeprefix("data: "))["reason"])

        assert told(running.url, tile) == shown(tile) == "no product can be inspected"
        assert told(running.url, every) == shown(every) == told(f"http://{running.service.admin[0]}")
        assert "bolt version 1: " in told(running.url, every)


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
