"""People log in: the cookie is worth what its token is worth, and no other page can use it."""

from collections.abc import Iterator
from pathlib import Path
from ssl import create_default_context

import httpx
import pytest

from tests.access.certificates import Authority
from tests.access.conftest import Guarded
from tests.e2e.serving import serving, wait_until
from tests.service.images import plain

OWN = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def browser(guarded: Guarded) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.running.url, timeout=30) as client:
        yield client


def log_in(browser: httpx.Client, secret: str, **headers: str) -> httpx.Response:
    return browser.post("/session", json={"token": secret}, headers=headers)


def test_a_person_logs_in_looks_around_and_logs_out(browser: httpx.Client, guarded: Guarded) -> None:
    assert browser.get("/session").status_code == 401
    answer = log_in(browser, guarded.tile)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # over plain HTTP no browser would send it back

    assert browser.get("/session").json() == {"needed": True, "caller": "tile-only", "products": ["tile"]}
    assert [each["name"] for each in browser.get("/v1/products").json()["products"]] == ["tile"]
    for product, status in (("tile", 200), ("bolt", 403)):
        url = f"/v1/inspect?product={product}"
        assert browser.post(url, content=plain(9), headers=OWN).status_code == status

    assert browser.delete("/session", headers=OWN).status_code == 204
    assert browser.get("/v1/products").status_code == 401


@pytest.mark.parametrize("secret", ["", "drd_no-such-token", "a; b\r\nc: d"])
def test_what_is_no_token_gets_no_cookie(browser: httpx.Client, secret: str) -> None:
    answer = log_in(browser, secret)
    assert answer.status_code in (401, 422)
    assert "set-cookie" not in answer.headers


def test_an_expired_token_gets_no_cookie(browser: httpx.Client, guarded: Guarded) -> None:
    assert log_in(browser, guarded.expired).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"{", 422), (b'{"token": 1}', 422), (b"token=x", 422), (b" " * 5000, 413)],
)
def test_a_login_that_is_none(browser: httpx.Client, body: bytes, status: int) -> None:
    assert browser.post("/session", content=body).status_code == status


def test_a_caller_who_leaves_during_the_login_leaves_no_traceback(
    browser: httpx.Client, guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    admission = guarded.running.service.inspector.admission
    with guarded.running.connected() as connection:
        connection.sendall(b'POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"token":')
        wait_until(lambda: admission.bytes > 0)
    wait_until(lambda: admission.bytes == 0)

    assert browser.get("/session").status_code == 401  # by then, all that the departure causes has happened
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},  # another port of this machine: SameSite lets the cookie through
        {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:1"},
        {},
    ],
)
def test_no_other_page_acts_with_the_cookie(
    browser: httpx.Client, guarded: Guarded, headers: dict[str, str]
) -> None:
    log_in(browser, guarded.all)
    answer = browser.post("/v1/inspect?product=tile", content=plain(9), headers=headers)
    assert answer.status_code == 403
    if headers:
        assert log_in(browser, guarded.all, **headers).status_code == 403
        assert browser.delete("/session", headers=headers).status_code == 403


def test_without_fetch_metadata_the_origin_counts(browser: httpx.Client, guarded: Guarded) -> None:
    log_in(browser, guarded.all)
    url, own = "/v1/inspect?product=tile", {"origin": guarded.running.url}
    assert browser.post(url, content=plain(9), headers=own).status_code == 200


def test_a_token_in_the_header_needs_no_origin_and_goes_before_the_cookie(
    browser: httpx.Client, guarded: Guarded
) -> None:
    log_in(browser, guarded.all)
    headers = {"authorization": f"Bearer {guarded.tile}", "sec-fetch-site": "cross-site"}
    for product, status in (("tile", 200), ("bolt", 403)):
        answer = browser.post(f"/v1/inspect?product={product}", content=plain(9), headers=headers)
        assert answer.status_code == status


def test_the_cookie_ends_with_its_token(browser: httpx.Client, guarded: Guarded) -> None:
    before = guarded.tokens.path.read_text()
    secret = guarded.tokens.add("guest")
    wait_until(lambda: log_in(browser, secret).status_code == 204)
    assert browser.get("/v1/products").status_code == 200
    guarded.tokens.path.write_text(before)
    wait_until(lambda: browser.get("/v1/products").status_code == 401)


def test_over_tls_the_cookie_is_secure_and_the_hosts_own(
    guarded: Guarded, models: Path, tmp_path: Path
) -> None:
    plant = Authority(tmp_path)
    server = plant.issue("server")
    with serving(models, tokens=guarded.tokens.path, **server.settings()) as running:
        url, context = f"https://{running.service.http[0]}", create_default_context(cafile=plant.certificate)
        with httpx.Client(base_url=url, verify=context, timeout=30) as browser:
            cookie = log_in(browser, guarded.all).headers["set-cookie"]
            assert cookie.startswith("__Host-drd=")
            assert "Secure" in cookie.split("; ")
            assert browser.get("/session").json()["caller"] == "all"


def test_where_no_token_is_needed_none_is_kept(models: Path) -> None:
    with serving(models) as running, httpx.Client(base_url=running.url, timeout=30) as browser:
        assert browser.get("/session").json() == {"needed": False, "caller": "", "products": None}
        answer = log_in(browser, "anything")
        assert (answer.status_code, "set-cookie" in answer.headers) == (204, False)
