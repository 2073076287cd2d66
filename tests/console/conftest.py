"""Tests of the operator page with a real browser and service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, sync_playwright

from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving

DESK, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; as root without its sandbox.

    While it is there, no event loop can be run in this thread: Playwright's own is.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage", *_CAMERA]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages; fails if one has logged an error that is not `expected`."""
    with ExitStack() as pages:

        def open_(url: str, viewport: ViewportSize = DESK, expected: str = "nothing at all") -> Page:
            return pages.enter_context(_watched(browser, url, viewport, expected))

        yield open_


@contextmanager
def _watched(browser: Browser, url: str, viewport: ViewportSize, expected: str) -> Iterator[Page]:
    complaints = list[str]()

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and expected not in message.text:
            complaints.append(message.text)

    with browser.new_context(viewport=viewport) as context:
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
        assert complaints == []


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products: `tile`, and `bolt`, which has a guard band and a minimum defect area."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "bolt", guard_band=0.02, min_area=4)
    make_bundle(models, "tile")
    return models


@pytest.fixture
def running(models: Path) -> Iterator[Running]:
    with serving(models) as service:
        yield service
