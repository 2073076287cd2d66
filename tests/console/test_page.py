"""The operator page in a real browser, as an operator uses it."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Route, ViewportSize, expect

from export.bundle.reading import judge
from service.history import MAX_WATCHERS
from tests.access.conftest import Tokens
from tests.bundles import make_bundle
from tests.console.conftest import DESK, PHONE, Open
from tests.e2e.serving import Running, process, serving, wait_until
from tests.service.engines import POISON, Gate
from tests.service.images import encoded, plain

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
expect.set_options(timeout=60_000)


def part(defects: int = 1) -> bytes:
    """A dark part with bright squares; three of them make it NG."""
    pixels = np.full((64, 96), 30, np.uint8)
    for number in range(defects):
        pixels[4:60, 4 + 31 * number : 32 + 31 * number] = 250
    return encoded(Image.fromarray(pixels).convert("RGB"))


def choose(page: Page, name: str, content: bytes) -> None:
    """Has a picture from disk inspected."""
    page.get_by_role("button", name="Inspect a picture").click()
    page.get_by_label("Product", exact=True).select_option("tile")
    kind = "image/tiff" if name.endswith(".tif") else "image/png"
    page.locator("#inspect-file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def send(
    url: str,
    image: bytes,
    frame_id: str,
    product: str = "tile",
    http: httpx.Client | None = None,
) -> dict[str, Any]:
    address = f"{url}/v1/inspect?product={product}&frame_id={frame_id}"
    post = (http or httpx).post
    answer = post(address, content=image, headers={"content-type": "image/png"}, timeout=30)
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


def shown(page: Page, selector: str) -> NDArray[np.int16]:
    """A screenshot of an element, as pixels."""
    return np.asarray(Image.open(BytesIO(page.locator(selector).screenshot())).convert("RGB"), np.int16)


def lamp(page: Page, verdict: str, line: str = "") -> None:
    """Waits until the lamp shows a verdict as a word, a shape and a colour class."""
    expect(page.locator("#plate-line")).to_contain_text(line)
    expect(page.locator("#plate-text")).to_have_text(verdict)
    expect(page.locator("#plate-glyph")).to_have_attribute("href", f"#glyph-{verdict}")
    expect(page.locator("#plate")).to_have_attribute("data-verdict", verdict)


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_a_picture_from_disk_gets_its_verdict(running: Running, open_page: Open, viewport: Any) -> None:
    page = open_page(running.url, viewport)
    expect(page.locator("#plate-text")).to_have_text("Waiting")
    choose(page, "bad.png", part(3))
    lamp(page, "NG", "bad.png")
    expect(page.locator("#regions tr")).to_have_count(3)
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)
    expect(page.locator(".row-item:visible")).to_have_count(1)

    choose(page, "good.png", part(0))
    lamp(page, "OK", "good.png")
    expect(page.locator(".row-item:visible")).to_have_count(2)


def test_a_picture_can_be_dropped(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    expect(page.locator("#products button")).to_have_count(3)
    page.get_by_role("button", name=re.compile("tile")).click()
    drop = """content => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(content)], "dropped.png", { type: "image/png" }));
        for (const type of ["dragover", "drop"])
            dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, list(part(3)))
    lamp(page, "NG", "dropped.png")


def test_a_tiff_that_no_browser_shows_is_shown(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    choose(page, "part.tif", encoded(Image.open(BytesIO(part(3))), "TIFF"))
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)


def test_a_tiff_is_shown_whatever_came_after_it(running: Running, open_page: Open) -> None:
    def after_others(route: Route) -> None:
        for number in range(100):
            send(running.url, plain(30), f"later {number}")
        route.continue_()

    page = open_page(running.url)
    page.route("**/v1/verdicts?*", after_others)
    choose(page, "part.tif", encoded(Image.open(BytesIO(part(3))), "TIFF"))
    lamp(page, "NG", "part.tif")
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)


def test_a_tiff_that_is_not_remembered_has_no_picture(models: Path, open_page: Open) -> None:
    with serving(models, history_bytes=0) as running:
        page = open_page(running.url)
        choose(page, "part.tif", encoded(Image.open(BytesIO(part(3))), "TIFF"))
        expect(page.locator("#no-picture")).to_contain_text("is not kept")
        page.reload()
        expect(page.locator("#tally [data-verdict=NG] dd")).to_have_text("1")
        expect(page.locator("#plate-line")).to_have_text("No verdict to show yet.")


def test_a_picture_from_the_camera(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    page.keyboard.press("i")
    expect(page.locator("#inspect-product option")).to_have_count(2)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    page.get_by_role("button", name="Take picture").click()
    expect(page.locator("#plate-line")).to_contain_text("camera-")
    expect(page.locator("#inspect")).to_be_hidden()


def test_a_camera_that_starts_after_the_dialog_was_closed_is_stopped(
    running: Running, open_page: Open
) -> None:
    page = open_page(running.url)
    late = """() => {
        const devices = navigator.mediaDevices;
        const start = devices.getUserMedia.bind(devices);
        const allowed = new Promise((allow) => (window.allow = allow));
        devices.getUserMedia = async (wanted) => {
            await allowed;
            return (window.stream = await start(wanted));
        };
    }"""
    page.evaluate(late)
    page.keyboard.press("i")
    expect(page.locator("#inspect-product option")).to_have_count(2)
    page.get_by_role("button", name="Use the camera").click()
    page.keyboard.press("Escape")
    ended = """async () => {
        allow();
        const soon = () => new Promise((later) => setTimeout(later, 50));
        while (!window.stream) await soon();
        await soon();
        return stream.getTracks().map((track) => track.readyState);
    }"""
    assert page.evaluate(ended) == ["ended"]


def test_the_product_chosen_in_the_dialog_is_that_of_every_picture(running: Running, open_page: Open) -> None:
    """Whatever the page shows: also of what is pasted, and after one that failed."""
    page = open_page(running.url, expected="status of 400")
    expect(page.locator("#products button")).to_have_count(3)
    page.get_by_role("button", name=re.compile("bolt")).click()
    choose(page, "bad.png", b"not at all")
    expect(page.locator("#inspect-note")).to_contain_text("not a readable JPEG")
    expect(page.locator("#inspect-product")).to_have_value("tile")
    paste = """content => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(content)], "pasted.png", { type: "image/png" }));
        dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    }"""
    page.evaluate(paste, list(part(3)))
    lamp(page, "NG", "tile  ·  pasted.png")


def test_no_other_product_takes_the_place_of_the_chosen_one(tmp_path: Path, open_page: Open) -> None:
    make_bundle(tmp_path, "bolt")
    chosen = make_bundle(tmp_path, "tile")
    with serving(tmp_path) as running:
        page = open_page(running.url)
        expect(page.locator("#products button")).to_have_count(3)
        page.get_by_role("button", name="Inspect a picture").click()
        page.get_by_label("Product", exact=True).select_option("tile")
        chosen.rename(tmp_path / ".withdrawn-tile-1")
        expect(page.locator("#inspect-product option")).to_have_count(1)
        expect(page.locator("#inspect-product")).to_have_value("")
        expect(page.locator("#inspect-file")).to_be_disabled()
        (tmp_path / ".withdrawn-tile-1").rename(chosen)
        expect(page.locator("#inspect-product")).to_have_value("tile")
        expect(page.locator("#inspect-file")).to_be_enabled()


def test_nor_that_of_the_first_one_that_was_ready(tmp_path: Path, open_page: Open) -> None:
    with serving(tmp_path) as running:
        page = open_page(running.url)
        page.get_by_role("button", name="Inspect a picture").click()
        shown = make_bundle(tmp_path, "bolt")
        expect(page.locator("#inspect-product")).to_have_value("bolt")
        make_bundle(tmp_path, "tile")
        expect(page.locator("#inspect-product option")).to_have_count(2)
        shown.rename(tmp_path / ".withdrawn-bolt-1")
        expect(page.locator("#inspect-product option")).to_have_count(1)
        expect(page.locator("#inspect-product")).to_have_value("")


def test_a_product_chosen_by_keyboard_keeps_the_focus(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    expect(page.locator("#products button")).to_have_count(3)
    page.get_by_role("button", name=re.compile("bolt")).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#products [aria-pressed=true]")).to_contain_text("bolt")
    expect(page.locator("#products [aria-pressed=true]")).to_be_focused()


def test_products_that_change_do_not_scroll_to_the_focus(tmp_path: Path, open_page: Open) -> None:
    for name in ("bolt", "tile"):
        make_bundle(tmp_path, name)
    with serving(tmp_path) as running:
        page = open_page(running.url, ViewportSize(width=200, height=800))
        expect(page.locator("#products button")).to_have_count(3)
        page.get_by_role("button", name="All", exact=True).focus()
        scrolled = page.locator("#products").evaluate("box => (box.scrollLeft = 50, box.scrollLeft)")
        make_bundle(tmp_path, "washer")
        expect(page.locator("#products button")).to_have_count(4)
        expect(page.locator("#products button").first).to_be_focused()
        assert page.locator("#products").evaluate("box => box.scrollLeft") == scrolled == 50


def test_the_product_in_view_is_in_view_among_many(running: Running, open_page: Open) -> None:
    page = open_page(running.url, ViewportSize(width=200, height=800))
    expect(page.locator("#products button")).to_have_count(3)
    for name in ("bolt", "tile"):
        page.keyboard.press("p")
        pressed = page.locator("#products [aria-pressed=true]")
        expect(pressed).to_contain_text(name)
        expect(pressed).to_be_in_viewport(ratio=0.9)


def test_enlarged_text_leaves_room_for_the_picture(running: Running, open_page: Open) -> None:
    """At 200 % zoom a screen of 1920 × 1080 pixels is this large to the page."""
    page = open_page(running.url, ViewportSize(width=960, height=450))
    send(running.url, part(3), "bad")
    lamp(page, "NG", "bad")
    picture, layers, chart = (
        page.locator(each).bounding_box() for each in ("#picture", ".layers", "#chart-title")
    )
    assert picture is not None
    assert layers is not None
    assert chart is not None
    assert picture["height"] > 100
    assert layers["y"] + layers["height"] <= chart["y"]


def test_what_is_no_picture_is_said_so(running: Running, open_page: Open) -> None:
    page = open_page(running.url, expected="status of 400")
    choose(page, "bad.png", b"not at all")
    expect(page.locator("#inspect-note")).to_contain_text("not a readable JPEG")
    expect(page.locator("#plate-text")).to_have_text("Waiting")


def test_verdicts_come_by_themselves_and_under_load_none_is_lost(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    expect(page.locator("#link-text")).to_have_text("Live")
    frames = [part(0), part(0), part(3), plain(127)]
    with ThreadPoolExecutor(4) as threads, httpx.Client() as http:
        sending = [
            threads.submit(send, running.url, frames[n % 4], f"part-{n}", "bolt", http) for n in range(300)
        ]
        for one in sending:
            one.result()
    send(running.url, part(3), "the-last")
    lamp(page, "NG", "the-last")

    expect(page.locator("#tally [data-verdict=OK] dd")).to_have_text("150")
    expect(page.locator("#tally [data-verdict=NG] dd")).to_have_text("76")
    expect(page.locator("#tally [data-verdict=REVIEW] dd")).to_have_text("75")
    expect(page.locator(".row-item[aria-posinset='1']:visible")).to_contain_text("the-last")
    assert page.locator(".row-item").count() < 30, "only what is to be seen is in the document"
    page.locator("#list").evaluate("list => list.scrollTo(0, 40 * 68)")
    expect(page.locator(".row-item[aria-posinset='43']:visible")).to_have_count(1)


def test_the_list_shows_what_is_asked_for(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    for name, image, product in (("a", part(0), "tile"), ("b", part(3), "tile"), ("c", plain(127), "bolt")):
        send(running.url, image, name, product)
    rows = page.locator(".row-item:visible")
    expect(rows).to_have_count(3)

    page.get_by_role("button", name="NG 1").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("NG")
    page.keyboard.press("3")
    expect(rows).to_contain_text("too close to the threshold")
    page.keyboard.press("1")
    page.get_by_role("button", name=re.compile("tile")).click()
    expect(rows).to_have_count(2)
    expect(page.locator("#chart-title")).to_have_text("Scores of tile")


def test_one_can_look_at_one_while_others_come(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    send(running.url, part(0), "first")
    send(running.url, part(3), "second")
    expect(page.locator(".row-item:visible")).to_have_count(2)
    page.locator(".row-item:visible", has_text="first").click()
    lamp(page, "OK", "first")
    expect(page.locator("#plate-mode")).to_contain_text("Held")

    send(running.url, part(3), "third")
    expect(page.locator(".row-item:visible")).to_have_count(3)
    lamp(page, "OK", "first")
    page.keyboard.press("ArrowUp")
    lamp(page, "NG", "second")
    page.keyboard.press("Escape")
    lamp(page, "NG", "third")
    expect(page.locator("#plate-mode")).to_have_text("Live")


def test_the_slider_changes_the_heat(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    send(running.url, part(1), "part")
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)
    for box in ("#show-outline", "#show-regions"):
        page.locator(box).uncheck()

    def at(percent: int) -> NDArray[np.int16]:
        page.locator("#opacity").fill(str(percent))
        return shown(page, "#picture")

    bare, half, full = at(0), at(50), at(100)
    height, width = bare.shape[:2]
    hot = slice(height // 4, 3 * height // 4), slice(width // 10, width // 4)
    cold = slice(height // 4, 3 * height // 4), slice(3 * width // 4, width - 4)
    blue = [float(image[hot][..., 2].mean()) for image in (bare, half, full)]
    assert blue[0] - blue[1] > 20, "on white, the heat takes away the blue"
    assert blue[1] - blue[2] > 20
    assert np.array_equal(bare[cold], full[cold]), "and leaves alone what is like every good part"

    page.locator("#show-outline").check()
    assert not np.array_equal(shown(page, "#picture"), full)
    assert np.array_equal(at(100)[cold], full[cold])


def test_another_threshold_can_be_tried_and_changes_nothing(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    scores = [send(running.url, plain(level), f"level-{level}")["score"] for level in (20, 80, 100, 140, 250)]
    page.get_by_role("button", name=re.compile("tile")).click()
    expect(page.locator(".row-item:visible")).to_have_count(5)
    page.locator("#threshold").fill("0.35")

    expect(page.locator("#changes")).to_contain_text("Of 5: 1 OK → NG")
    assert sum(0.35 < score < 0.5 for score in scores) == 1
    expect(page.locator("#changes")).to_contain_text("0.3500 instead of 0.5000")
    page.get_by_role("button", name="Changed 1").click()
    expect(page.locator(".row-item:visible")).to_have_count(1)
    assert send(running.url, plain(100), "again")["verdict"] == "OK"

    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".row-item:visible")).to_have_count(6)


def test_the_page_judges_as_the_service_does(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    cases = [(score / 100, band) for score in range(0, 101, 2) for band in (0.0, 0.02, 0.1)]
    judged = page.evaluate(
        """async cases => {
            const { judged } = await import("/console/verdicts.js");
            const record = ([score, guard_band]) => ({ score, guard_band, reason: "", small: false });
            return cases.map((one) => judged(record(one), 0.5));
        }""",
        cases,
    )
    assert judged == [judge(score, band)[0] for score, band in cases]


def test_a_service_that_is_gone_is_seen_to_be_gone_and_comes_back(models: Path, open_page: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with process("--models", models, "--http", address) as first:
        page = open_page(f"http://{address}", expected="ERR_")
        send(f"http://{address}", part(0), "before")
        lamp(page, "OK", "before")
        first.popen.kill()
        expect(page.get_by_role("alert").first).to_contain_text("does not answer")
        expect(page.locator("#plate-text")).to_have_text("No signal")
        expect(page.locator("#plate-line")).to_contain_text("last seen: OK")
        expect(page.locator("#link-text")).to_have_text("No connection")
    with process("--models", models, "--http", address):
        expect(page.locator("#link-text")).to_have_text("Live")
        expect(page.locator("#alarm")).to_be_hidden()
        send(f"http://{address}", part(3), "after")
        lamp(page, "NG", "after")


def test_what_waited_for_the_lamp_does_not_outlive_the_service(models: Path, open_page: Open) -> None:
    """A verdict is held while another one comes, then the service restarts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    url = f"http://{address}"
    with process("--models", models, "--http", address) as first:
        page = open_page(url, expected="ERR_")
        page.clock.install()
        page.reload()
        send(url, part(0), "held")
        lamp(page, "OK", "held")
        page.locator(".row-item:visible").click()
        expect(page.locator("#plate-mode")).to_contain_text("Held")
        send(url, part(0), "waiting")
        expect(page.locator(".row-item:visible")).to_have_count(2)
        page.clock.pause_at(page.evaluate("Date.now() / 1000") + 4)  # from here on timers run only on request
        first.popen.kill()
    with process("--models", models, "--http", address):
        expect(page.locator("#plate-text")).to_have_text("Waiting")
        send(url, part(3), "after")
        lamp(page, "NG", "after")
        page.clock.run_for(1000)
        assert page.locator("#plate-text").inner_text() == "NG"


def test_no_picture_is_shown_with_the_verdict_of_another_part(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    send(running.url, part(0), "good")
    lamp(page, "OK", "good")
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)
    thumbnail = page.locator(".row-item:visible img")
    expect(thumbnail).to_have_js_property("naturalWidth", 96)
    page.keyboard.press("2")
    expect(page.locator(".row-item:visible")).to_have_count(0)

    coming = list[Route]()

    def hold(route: Route) -> None:
        coming.append(route)

    for path in ("**/frame", "**/thumbnail"):
        page.route(path, hold)
    send(running.url, part(3), "bad")
    lamp(page, "NG", "bad")
    expect(page.locator("#no-picture")).to_contain_text("is loading")
    assert page.locator("#frame").evaluate("frame => [frame.hasAttribute('src'), frame.alt]") == [False, ""]
    expect(thumbnail).to_have_js_property("naturalWidth", 0)

    for one in coming:
        one.continue_()
    expect(thumbnail).to_have_js_property("naturalWidth", 96)
    expect(page.locator("#frame")).to_have_attribute("alt", "Part of tile: NG")


def test_how_old_a_verdict_is_does_not_depend_on_the_page_s_clock(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    page.add_init_script("const now = Date.now; Date.now = () => now() + 120_000;")
    page.reload()
    send(running.url, part(0), "now")
    lamp(page, "OK", "now")
    expect(page.locator("#plate-mode")).to_have_text("Live")
    expect(page.locator("#plate")).to_have_attribute("data-idle", "false")


def turn(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_page_that_nobody_sees_is_paused(running: Running, open_page: Open) -> None:
    page = open_page(running.url)
    send(running.url, part(0), "before")
    lamp(page, "OK", "before")
    turn(page, hidden=True)
    expect(page.locator("#link-text")).to_have_text("Paused")
    expect(page.locator("#plate-text")).to_have_text("No signal")
    wait_until(lambda: running.service.history.watchers == 0)
    send(running.url, part(3), "unseen")
    send(running.url, part(0), "newest")
    turn(page, hidden=False)
    lamp(page, "OK", "newest")
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator(".row-item:visible")).to_have_count(3)


def test_many_windows_of_one_browser_leave_it_connections(running: Running, open_page: Open) -> None:
    """A browser has six to each service, and every live page keeps one."""
    page = open_page(running.url)
    windows = [page, *(page.context.new_page() for _ in range(6))]
    for number, window in enumerate(windows):
        window.goto(running.url)
        expect(window.locator("#link-text")).to_have_text("Live" if number < 4 else "Paused")
    expect(windows[4].locator("#alarm")).to_contain_text("4 other windows of this browser are live")

    send(running.url, part(3), "part")
    lamp(page, "NG", "part")
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)
    expect(windows[4].locator("#plate-text")).to_have_text("No signal")
    for window in windows[1:4]:
        window.close()
    lamp(windows[4], "NG", "part")


def test_a_page_too_many_says_so(running: Running, open_page: Open) -> None:
    with ExitStack() as watching:
        for _ in range(MAX_WATCHERS):
            watching.enter_context(running.service.history.watch())
        page = open_page(running.url, expected="status of 429")
        expect(page.locator("#alarm")).to_contain_text("32 pages are open already. What is shown is old")
        expect(page.locator("#plate-text")).to_have_text("No signal")
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#alarm")).to_be_hidden()


def test_a_product_that_fails_is_seen_to_fail(tmp_path: Path, open_page: Open) -> None:
    (tmp_path / "tile" / "1").mkdir(parents=True)
    (tmp_path / "tile" / "1" / "manifest.json").write_text("{}")
    with serving(tmp_path) as running:
        page = open_page(running.url)
        expect(page.locator("#products button[data-state=FAILED]")).to_contain_text("tile")
        expect(page.get_by_role("alert").first).to_contain_text("Not ready")


def test_parts_that_were_not_inspected_are_an_alarm(models: Path, open_page: Open) -> None:
    with serving(models, Gate().start) as running:
        page = open_page(running.url)
        expect(page.locator("#link-text")).to_have_text("Live")
        send(running.url, part(0), "good")
        lamp(page, "OK", "good")
        expect(page.locator("#alarm")).to_be_hidden()
        failed = httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(POISON))
        assert failed.status_code == 500
        expect(page.get_by_role("alert").first).to_contain_text("1 part was not inspected")
        expect(page.locator("#tally [data-verdict=NOT_INSPECTED] dd")).to_have_text("1")


def test_parts_missed_while_nobody_saw_the_page_are_not_those_of_the_last_minute(
    models: Path, open_page: Open
) -> None:
    with serving(models, Gate().start) as running:
        page = open_page(running.url)
        expect(page.locator("#link-text")).to_have_text("Live")
        turn(page, hidden=True)
        assert httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(POISON)).is_error
        page.evaluate("const now = performance.now(); performance.now = () => now + 120_000")
        turn(page, hidden=False)
        expect(page.locator("#tally [data-verdict=NOT_INSPECTED] dd")).to_have_text("1")
        expect(page.locator("#alarm")).to_be_hidden()


def test_signing_in_and_out(models: Path, tmp_path: Path, open_page: Open) -> None:
    tokens = Tokens(tmp_path / "tokens")
    secret, everything = tokens.add("tile", "tile"), tokens.add("all")
    with serving(models, tokens=tokens.path) as running:
        for product in ("bolt", "tile"):
            httpx.post(
                f"{running.url}/v1/inspect?product={product}",
                content=part(3),
                headers={"authorization": f"Bearer {everything}"},
            ).raise_for_status()
        page = open_page(running.url, expected="status of 40")
        page.get_by_label("Token").fill("drd_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#login-note")).to_contain_text("not valid")
        check_axe(page)
        page.route(
            "**/session", lambda route: route.fulfill(status=403, json={"detail": "of another origin"})
        )
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#login-note")).to_contain_text("Not signed in: of another origin")
        page.unroute("**/session")
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        lamp(page, "NG", "tile")
        expect(page.locator("#products button")).to_have_count(1)
        expect(page.locator(".row-item:visible")).to_have_count(1)
        assert secret not in page.evaluate("document.cookie + JSON.stringify(localStorage)")

        page.keyboard.press("?")
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator("#login")).to_be_visible()
        expect(page.locator(".row-item:visible")).to_have_count(0)


def check_axe(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("viewport", [DESK, PHONE])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_can_be_used_by_everybody(running: Running, open_page: Open, viewport: Any, theme: str) -> None:
    """Accessibility as checked by axe: names, roles, contrast."""
    page = open_page(running.url, viewport)
    if theme == "light":
        page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    check_axe(page)
    for image, verdict in ((part(0), "OK"), (part(3), "NG"), (plain(127), "REVIEW")):
        send(running.url, image, verdict, "bolt")
        lamp(page, verdict, verdict)
        check_axe(page)
    page.locator("#threshold").fill("0.2")
    page.locator(".row-item:visible").nth(1).click()
    expect(page.locator("#plate-mode")).to_contain_text("Held")
    check_axe(page)
    for key, dialog in (("i", "#inspect"), ("?", "#help")):
        page.keyboard.press(key)
        expect(page.locator(dialog)).to_be_visible()
        check_axe(page)
        page.keyboard.press("Escape")


def test_it_asks_nobody_else_for_anything(running: Running, open_page: Open) -> None:
    page, asked = open_page(running.url), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    send(running.url, part(3), "part")
    lamp(page, "NG", "part")
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", 96)

    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(running.url)] == []
