"""The page's files: complete, from this service only, and with a strict content security policy."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.bundles import make_bundle
from tests.e2e.serving import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tile")
    with serving(models) as running:
        yield running.url


def referred(text: str) -> set[str]:
    """Every local path that a file refers to."""
    return set(re.findall(r'"(/console/[^"]+)"', text))


def test_everything_it_refers_to_is_there_and_from_here(url: str) -> None:
    todo, seen = {"/"}, dict[str, httpx.Response]()
    while todo:
        path = todo.pop()
        seen[path] = httpx.get(url + path)
        assert seen[path].status_code == 200, path
        if "text" in seen[path].headers["content-type"]:
            todo |= referred(seen[path].text) - seen.keys()

    assert {"/console/main.js", "/console/layout.css"} <= seen.keys()
    assert seen["/console/fonts/b612-700.woff2"].headers["content-type"] == "font/woff2"
    for path, response in seen.items():
        elsewhere = (
            re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", response.text)
            if "text" in str(response.headers["content-type"])
            else []
        )
        assert set(elsewhere) <= {"http://www.w3.org"}, path
    assert sum(len(response.content) for response in seen.values()) < 150_000


def test_it_may_load_and_run_only_what_is_its_own(url: str) -> None:
    page = httpx.get(url)
    policy = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert not re.search(r"<style|<script(?![^>]*src=)|\son[a-z]+=|\sstyle=", page.text)


def test_a_page_that_is_known_is_not_sent_again(url: str) -> None:
    first = httpx.get(f"{url}/console/main.js")
    again = httpx.get(f"{url}/console/main.js", headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/console/nothing.js", "/console/", "/console/%2e%2e/page.py", "/console/../page.py"]
)
def test_other_paths_are_not_found(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 404
