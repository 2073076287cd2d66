"""The HTTP door on a real port: its answers to correct and to wrong requests."""

import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.http.answers import Answer
from service.http.wire import prefers_overlay
from tests.e2e.serving import Running, wait_until
from tests.service.engines import NOT_A_NUMBER, POISON, Gate
from tests.service.images import bomb, plain


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=20) as client:
        yield client


def inspect(http: httpx.Client, body: bytes, query: str = "", **headers: str) -> httpx.Response:
    return http.post(
        f"/v1/inspect?product=tile{query}",
        content=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def picture(part: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(b64decode(part["data"])))


def test_a_bright_frame_is_ng_with_everything_that_belongs_to_it(http: httpx.Client) -> None:
    body = plain(200, (40, 60))

    response = inspect(http, body, "&frame_id=part 7", X_Request_Id="line-3/000017")

    assert response.status_code == 200
    assert response.headers["x-request-id"] == "line-3/000017"
    answer = response.json()
    Answer.model_validate(answer, extra="forbid")
    assert answer["verdict"] == "NG"
    assert answer["raw_score"] == pytest.approx(200 / 255, rel=1e-5)
    assert (answer["threshold"], answer["raw_threshold"], answer["version"]) == (0.5, 0.5, 1)
    assert (answer["frame_id"], answer["request_id"]) == ("part 7", "line-3/000017")
    assert answer["image"] == {"width": 60, "height": 40, "sha256": sha256(body).hexdigest()}
    assert [region["area"] for region in answer["regions"]] == [60 * 40]
    assert set(answer) & {"heatmap", "mask", "overlay"} == {"heatmap", "mask"}
    heatmap = picture(answer["heatmap"])
    assert (heatmap.mode, heatmap.size) == ("L", (32, 32))
    assert np.all(np.asarray(heatmap) == round(255 * answer["score"]))
    mask = picture(answer["mask"])
    assert (mask.mode, mask.size) == ("1", (60, 40))
    assert np.all(np.asarray(mask))
    timings = answer["timings_ms"]
    assert timings["total"] >= sum(timings.values()) - timings["total"] - 0.01


def test_a_dark_frame_is_ok(http: httpx.Client) -> None:
    answer = inspect(http, plain(40)).json()

    assert (answer["verdict"], answer["reason"], answer["regions"]) == ("OK", "", [])
    assert answer["score"] == pytest.approx(40 / 255, rel=1e-5)


@pytest.mark.parametrize(
    ("include", "parts"),
    [("", set()), ("regions", {"regions"}), ("overlay,mask", {"overlay", "mask"}), ("heatmap", {"heatmap"})],
)
def test_include_names_the_parts(http: httpx.Client, include: str, parts: set[str]) -> None:
    answer = inspect(http, plain(200), f"&include={include}").json()

    assert set(answer) & {"heatmap", "mask", "regions", "overlay"} == parts


def test_the_overlay_can_be_requested_as_a_picture(http: httpx.Client) -> None:
    response = inspect(http, plain(200, (40, 60)), Accept="image/png")

    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-verdict"] == "NG"
    assert 0.5 < float(response.headers["x-score"]) < 1
    assert Image.open(BytesIO(response.content)).size == (60, 40)


def test_a_form_gives_the_same_answer(http: httpx.Client) -> None:
    body = plain(99, kind="JPEG")
    form = {"image": ("part.jpg", body, "image/jpeg"), "note": ("n.txt", b"line 3", "text/plain")}

    response = http.post("/v1/inspect?product=tile", files=form)

    assert response.status_code == 200
    assert response.json()["image"]["sha256"] == sha256(body).hexdigest()
    assert response.json()["raw_score"] == inspect(http, body).json()["raw_score"]


def test_a_form_s_media_type_is_not_case_sensitive(http: httpx.Client) -> None:
    form = b'--X\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + plain(9) + b"\r\n--X--\r\n"
    assert inspect(http, form, Content_Type="Multipart/Form-Data; boundary=X").status_code == 200


@pytest.mark.parametrize(("before", "status"), [(b"ignored\r\n", 200), (b"\r\n", 200), (b"no line", 422)])
def test_what_precedes_a_form_is_ignored(http: httpx.Client, before: bytes, status: int) -> None:
    form = before + form_of(b"") + b"ignored"
    assert inspect(http, form, Content_Type="multipart/form-data; boundary=x").status_code == status


@pytest.mark.parametrize(("notes", "status"), [(31, 200), (32, 422)])
def test_other_parts_of_a_form_are_ignored_up_to_a_number(
    http: httpx.Client, notes: int, status: int
) -> None:
    """Nothing of them is taken for the image's, such as a type where it has none."""
    note = b'--x\r\nContent-Disposition: form-data; name="note"\r\nContent-Type: text/plain\r\n\r\nline 3\r\n'
    response = inspect(http, note * notes + form_of(b""), Content_Type="multipart/form-data; boundary=x")
    assert response.status_code == status
    assert status != 200 or response.json()["image"]["sha256"] == sha256(plain(9)).hexdigest()


def test_a_request_is_one_line_of_the_log(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "service.calls")

    def logged(request_id: str) -> dict[str, Any]:
        """It is written once the request is answered."""
        lines = list[dict[str, Any]]()

        def look() -> bool:
            lines[:] = [vars(record) for record in caplog.records]
            return any(line.get("request_id") == request_id for line in lines)

        wait_until(look)
        (line,) = (line for line in lines if line.get("request_id") == request_id)
        return line

    answer = inspect(http, plain(200), "&frame_id=7").json()
    line = logged(answer["request_id"])
    names = "frame_id product version bundle_digest engine verdict reason raw_score batch_size timings_ms"
    assert {name: line[name] for name in names.split()} == {name: answer[name] for name in names.split()}
    assert line["score"] == pytest.approx(answer["score"], abs=1e-4)
    assert line["sha256"] == answer["image"]["sha256"]

    problem = inspect(http, b"text").json()
    line = logged(problem["request_id"])
    assert (line["message"], line["outcome"]) == (problem["detail"], "bad_input")


def test_blanks_around_a_header_s_value_are_no_part_of_it(running: Running) -> None:
    body = plain(9)
    with running.connected() as connection:
        connection.sendall(head(len(body), b"X-Deadline-Ms:  30000 \t\r\n") + body)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff"])
def test_a_declared_type_that_is_right_is_accepted(http: httpx.Client, kind: str) -> None:
    assert inspect(http, plain(9, kind=kind), Content_Type=f"image/{kind}").status_code == 200


def form_of(content: bytes) -> bytes:
    """A form with the boundary x whose part `image` is a frame followed by `content`."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    return head + plain(9) + content + b"\r\n--x--\r\n"


WRONG: dict[str, tuple[int, Callable[[httpx.Client], httpx.Response]]] = {
    "a text": (400, lambda http: inspect(http, b"not an image")),
    "a truncated JPEG": (400, lambda http: inspect(http, plain(9, (64, 64), "JPEG")[:-200])),
    "nothing": (400, lambda http: inspect(http, b"")),
    "a GIF": (400, lambda http: inspect(http, plain(9, kind="GIF"))),
    "a PNG declared as JPEG": (415, lambda http: inspect(http, plain(9), Content_Type="image/jpeg")),
    "a PNG declared as JPEG, in a form": (
        415,
        lambda http: http.post(
            "/v1/inspect?product=tile", files={"image": ("a.jpg", plain(9), "image/jpeg")}
        ),
    ),
    "a type that is not ASCII, in a form": (
        415,
        lambda http: http.post("/v1/inspect?product=tile", files={"image": ("a.jpg", plain(9), "image/ä")}),
    ),
    "a type that is not supported": (415, lambda http: inspect(http, plain(9), Content_Type="text/plain")),
    "no product": (422, lambda http: http.post("/v1/inspect", content=plain(9))),
    "an unknown parameter": (422, lambda http: inspect(http, plain(9), "&prodct=tile")),
    "a query that is not UTF-8": (422, lambda http: inspect(http, plain(9), "&frame_id=%ff")),
    "a parameter twice": (422, lambda http: inspect(http, plain(9), "&product=bolt")),
    "an unknown part": (422, lambda http: inspect(http, plain(9), "&include=soul")),
    "a version that is not a number": (422, lambda http: inspect(http, plain(9), "&version=newest")),
    "version 0": (422, lambda http: inspect(http, plain(9), "&version=0")),
    "no time at all": (422, lambda http: inspect(http, plain(9), X_Deadline_Ms="0")),
    "a deadline that is not a number": (422, lambda http: inspect(http, plain(9), X_Deadline_Ms="soon")),
    "two deadlines": (
        422,
        lambda http: http.post(
            "/v1/inspect?product=tile",
            content=plain(9),
            headers=[("X-Deadline-Ms", "1"), ("X-Deadline-Ms", "5000")],
        ),
    ),
    "a request id that is too long": (422, lambda http: inspect(http, plain(9), X_Request_Id="x" * 129)),
    "a frame id that is not ASCII": (422, lambda http: inspect(http, plain(9), "&frame_id=%C3%A4")),
    "an unknown product": (404, lambda http: http.post("/v1/inspect?product=no", content=plain(9))),
    "a product that is a path": (
        404,
        lambda http: http.post("/v1/inspect?product=../tile", content=plain(9)),
    ),
    "an unknown version": (404, lambda http: inspect(http, plain(9), "&version=9")),
    "too many bytes": (413, lambda http: inspect(http, bytes(200_001))),
    "too many bytes, in chunks": (
        413,
        lambda http: http.post("/v1/inspect?product=tile", content=iter([bytes(100_000)] * 3)),
    ),
    "too many bytes, in a form": (
        413,
        lambda http: http.post("/v1/inspect?product=tile", files={"image": bytes(200_001)}),
    ),
    "too many pixels": (413, lambda http: inspect(http, bomb())),
    "a frame on which the engine fails": (500, lambda http: inspect(http, plain(POISON))),
    "a frame whose score is not a number": (500, lambda http: inspect(http, plain(NOT_A_NUMBER))),
    "a form without an image": (
        422,
        lambda http: http.post("/v1/inspect?product=tile", files={"picture": b"x"}),
    ),
    "a form with two images": (
        422,
        lambda http: http.post("/v1/inspect?product=tile", files=[("image", plain(9)), ("image", plain(8))]),
    ),
    "a malformed form": (
        400,
        lambda http: inspect(
            http, b"--x\r\nno header\r\n\r\n\r\n--x--", Content_Type="multipart/form-data; boundary=x"
        ),
    ),
    "a form whose last boundary is missing": (
        422,
        lambda http: inspect(
            http, form_of(b"\r\n--x\r\n")[:-7], Content_Type="multipart/form-data; boundary=x"
        ),
    ),
    "a form without an end": (
        422,
        lambda http: inspect(
            http,
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n',
            Content_Type="multipart/form-data; boundary=x",
        ),
    ),
    "a form without a boundary": (422, lambda http: inspect(http, b"", Content_Type="multipart/form-data")),
    "a form of very many parts": (
        422,
        lambda http: inspect(http, b"--x\r\n\r\n\r\n" * 9000, Content_Type="multipart/form-data; boundary=x"),
    ),
    "a form of very many false boundaries": (
        422,
        lambda http: inspect(
            http, form_of(b"\r\n--xy" * 9000), Content_Type="multipart/form-data; boundary=x"
        ),
    ),
    "a form with a padded boundary": (
        422,
        lambda http: inspect(
            http, form_of(b"\r\n--x" + b" " * 9000), Content_Type="multipart/form-data; boundary=x"
        ),
    ),
    "a product's name without end": (422, lambda http: http.post("/v1/inspect?product=" + "x" * 200)),
    "the wrong method": (405, lambda http: http.get("/v1/inspect")),
    "an unknown path": (404, lambda http: http.get("/v2/inspect")),
    "a slash too many": (404, lambda http: http.get("/v1/products/")),
    "no such product to look at": (404, lambda http: http.get("/v1/products/no")),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_problem_documents(http: httpx.Client, case: str) -> None:
    status, ask = WRONG[case]

    response = ask(http)

    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert "\n" not in problem["detail"]
    assert "Traceback" not in response.text
    if "/v1/inspect" in str(response.url) and status != 405:
        assert problem["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ("nothing", "empty"),
        ("a parameter twice", "'product'"),
        ("the wrong method", "use POST"),
        ("an unknown path", "'/v2/inspect'"),
    ],
)
def test_an_error_names_what_is_wrong(http: httpx.Client, case: str, named: str) -> None:
    assert named in WRONG[case][1](http).json()["detail"]


def test_a_full_queue_and_a_passed_deadline_are_answered_at_once(http: httpx.Client, gate: Gate) -> None:
    gate.shut()
    with ThreadPoolExecutor(9) as callers:
        answers = [callers.submit(inspect, http, plain(9), X_Deadline_Ms="10000")]
        gate.wait_for_batch()
        late = inspect(http, plain(9), X_Deadline_Ms="3000")  # much longer than batches have taken so far
        answers += [callers.submit(inspect, http, plain(9)) for _ in range(7)]
        wait_until(lambda: depth(http) == 8)
        full = inspect(http, plain(9))
        gate.open()
        assert [answer.result().status_code for answer in answers] == [200] * 8

    assert late.status_code == 504
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert full.json()["title"] == "Too Many Requests"


def test_a_refusal_does_not_wait_for_the_image(http: httpx.Client, running: Running, gate: Gate) -> None:
    gate.shut()
    body = plain(9)
    with ThreadPoolExecutor(8) as callers, running.connected() as connection:
        answers = [callers.submit(inspect, http, body) for _ in range(8)]
        wait_until(lambda: depth(http) == 8)
        connection.sendall(head(len(body)))
        refusal = connection.recv(4096)
        gate.open()
        assert [answer.result().status_code for answer in answers] == [200] * 8
        connection.sendall(body + head(len(body)) + body)  # the refused body, then another request
        answer = connection.recv(12)

    assert refusal.startswith(b"HTTP/1.1 429 ")
    assert answer == b"HTTP/1.1 200"


def test_a_caller_that_leaves_frees_its_place(http: httpx.Client, running: Running, gate: Gate) -> None:
    gate.batches.clear()
    gate.shut()
    with ThreadPoolExecutor(1) as callers:
        stays = callers.submit(inspect, http, plain(1))
        gate.wait_for_batch()
        body = plain(2)
        with running.connected() as connection:
            connection.sendall(head(len(body)) + body)
            wait_until(lambda: depth(http) == 2)
        wait_until(lambda: depth(http) == 1)
        gate.open()
        assert stays.result().status_code == 200

    assert gate.batches == [(1,)]
    assert (
        'drd_requests_total{door="http",outcome="cancelled",product="tile"} 1.0' in http.get("/metrics").text
    )


def test_the_deadline_counts_from_the_head_of_the_request(running: Running) -> None:
    body = plain(2)
    with running.connected() as connection:
        connection.sendall(head(len(body), b"X-Deadline-Ms: 100\r\n") + body[:-1])
        response = connection.makefile("rb").readline()

    assert response.startswith(b"HTTP/1.1 504")


def test_the_deadline_does_not_count_before_the_head_s_end(running: Running) -> None:
    body = plain(2)
    whole = head(len(body), b"X-Deadline-Ms: 1500\r\n")
    with running.connected() as connection:
        connection.sendall(whole[:-2])
        late = time.monotonic() + 1.6
        wait_until(lambda: time.monotonic() > late)
        connection.sendall(whole[-2:] + body)
        response = connection.makefile("rb").readline()

    assert response.startswith(b"HTTP/1.1 200")


def test_the_deadline_counts_behind_another_request_of_the_connection(running: Running, gate: Gate) -> None:
    body = plain(200)
    gate.shut()
    with running.connected() as connection:
        connection.sendall(head(len(body)) + body + head(len(body), b"X-Deadline-Ms: 500\r\n") + body)
        late = time.monotonic() + 1
        gate.wait_for_batch()
        wait_until(lambda: time.monotonic() > late)
        gate.open()
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 2:
            more = connection.recv(100_000)
            assert more
            answers += more

    assert [line[:3] for line in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"504"]


def test_connections_are_kept_after_a_refusal(http: httpx.Client) -> None:
    for _ in range(3):
        assert inspect(http, b"text").status_code == 400
        assert inspect(http, plain(5)).status_code == 200


def test_products_are_listed_with_their_versions(http: httpx.Client) -> None:
    products = http.get("/v1/products").json()["products"]
    one = http.get("/v1/products/tile").json()

    assert [product["name"] for product in products] == ["bolt", "tile"]
    assert one == products[1]
    assert (one["state"], one["version"], one["versions"][0]["engine"]) == ("READY", 1, "onnx-f32")
    assert one["versions"][0]["bundle_digest"] == inspect(http, plain(1)).json()["bundle_digest"]


@pytest.mark.parametrize(
    ("accept", "picture"),
    [
        ("image/png", True),
        ("IMAGE/PNG; q=0.5, text/html", True),
        ("application/json;q=0.8, image/png", True),
        ("image/png;q=0.8, application/json", False),
        ("image/png;q=0", False),
        ("image/png, application/json", True),
        ("application/json, image/png", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_answer_s_form_is_the_one_preferred(accept: str, picture: bool) -> None:
    assert prefers_overlay(accept) is picture


def test_an_answer_whose_encoding_outlasts_its_deadline_is_not_given(
    http: httpx.Client, takes_a_minute: Callable[[str], None]
) -> None:
    assert inspect(http, plain(1), X_Deadline_Ms="30000").status_code == 200
    takes_a_minute("service.http.inspect.answer_of")
    assert inspect(http, plain(1), X_Deadline_Ms="30000").status_code == 504


def test_health(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "alive"}
    assert http.get("/health/ready").json() == {"status": "ready"}
    assert http.get("/health/ready?product=tile").json() == {"status": "ready"}
    assert http.get("/health/ready?product=other").status_code == 404
    for path in ("/health/live", "/health/ready"):  # what some load balancers ask
        assert (http.head(path).status_code, http.head(path).content) == (200, b"")


def test_the_docs_load_nothing_from_other_servers(http: httpx.Client) -> None:
    page = http.get("/docs").text

    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/assets/{asset}" in page
        assert http.get(f"/docs/assets/{asset}").status_code == 200


def test_the_openapi_document_describes_what_is_served(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()

    assert set(document["paths"]) >= {
        "/v1/inspect",
        "/v1/products",
        "/v1/products/{name}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    operation = document["paths"]["/v1/inspect"]["post"]
    statuses = {str(status) for status, _ in WRONG.values()} - {"405"}
    others = {"200", "401", "403", "408", "429", "503", "504"}
    assert statuses | others == set(operation["responses"])
    assert all("Retry-After" in operation["responses"][status]["headers"] for status in ("429", "503"))
    assert http.get("/openapi.json").text.count('"title":"Problem"') == 1  # generators make a class of each
    answer = document["components"]["schemas"]["Answer"]["properties"]
    assert set(inspect(http, plain(9), "&include=heatmap,mask,regions,overlay").json()) == set(answer)


SERIES = """requests_total verdicts_total request_seconds_bucket stage_seconds_bucket batch_size_bucket
    queue_depth deadline_missed_total late_total takt_seconds engine_busy_seconds_total
    score_bucket product_state parity_deviation bundle_info
    certificate_expiry_seconds ready"""


def test_every_documented_metric_is_scraped(http: httpx.Client) -> None:
    inspect(http, plain(200))
    text = http.get("/metrics").text

    for name in SERIES.split():
        assert f"\ndrd_{name}" in text, name
    assert "\n# TYPE drd_rejected_total counter" in text  # it has no samples before the first refusal
    assert 'drd_request_seconds_bucket{door="http",le="0.2",product="tile"}' in text


def test_a_bad_parameter_is_counted_for_its_product(http: httpx.Client, running: Running) -> None:
    bad = partial(running.sample, "drd_requests_total", product="tile", door="http", outcome="bad_input")
    before = bad()
    assert inspect(http, plain(9), "&include=soul").status_code == 422
    wait_until(lambda: bad() == before + 1)  # it is counted once it is answered


def test_callers_cannot_make_up_series(http: httpx.Client) -> None:
    http.post("/v1/inspect?product=made-up", content=plain(9))

    text = http.get("/metrics").text
    assert "made-up" not in text
    assert 'drd_requests_total{door="http",outcome="bad_input",product="unknown"}' in text


def head(length: int, more: bytes = b"") -> bytes:
    return b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (
        length,
        more,
    )


def depth(http: httpx.Client) -> int:
    """Frames of `tile` accepted and not yet answered."""
    (line,) = re.findall(r'^drd_queue_depth{product="tile"} (.*)$', http.get("/metrics").text, re.M)
    return round(float(line))
