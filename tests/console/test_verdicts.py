"""The newest verdicts over HTTP: as a list, with images, and live."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.access.conftest import Tokens
from tests.bundles import make_bundle, plain_frame
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import POISON, Gate
from tests.service.images import encoded, plain


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tile")
    make_bundle(models, "bolt", min_area=4, guard_band=0.02)
    with serving(models, Gate().start) as service:
        yield service


def inspect(url: str, image: bytes, product: str = "tile", **headers: str) -> httpx.Response:
    kind = {"content-type": "application/octet-stream"}
    return httpx.post(f"{url}/v1/inspect?product={product}", content=image, headers=kind | headers)


def remembered(url: str, request_id: str, **headers: str) -> dict[str, Any]:
    """Waits for the record of an answered request: it may be added just after the answer."""
    found = list[dict[str, Any]]()

    def look() -> bool:
        records = httpx.get(f"{url}/v1/verdicts?limit=2000", headers=headers).json()["records"]
        found.extend(record for record in records if record["request_id"] == request_id)
        return bool(found)

    wait_until(look)
    return found[0]


def picture(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(BytesIO(response.content))


def test_a_verdict_is_remembered_as_it_was_answered(running: Running) -> None:
    began = time.time()
    answer = inspect(running.url, plain(200)).json()
    record = remembered(running.url, answer["request_id"])

    assert began <= record["at"] <= time.time()
    assert {name: record[name] for name in record if name in answer and name != "image"} == {
        name: answer[name] for name in record if name in answer and name != "image"
    }
    assert (record["verdict"], record["door"], record["pictures"]) == ("NG", "http", True)
    assert httpx.get(f"{running.url}/v1/verdicts/{record['id']}").json() == record


def test_a_verdict_has_what_a_trial_threshold_needs(running: Running) -> None:
    """The page judges anew by another one: within the guard band, and where no region is large enough."""
    answers = [inspect(running.url, plain(200, size), "bolt").json() for size in ((1, 3), (32, 32))]
    records = [remembered(running.url, answer["request_id"]) for answer in answers]

    assert [(record["guard_band"], record["small"]) for record in records] == [(0.02, True), (0.02, False)]


def test_verdicts_of_grpc_are_remembered_alike(running: Running) -> None:
    with grpc.insecure_channel(running.target) as channel:
        request = pb.InspectRequest(image=plain(210), product="tile", request_id="by-grpc", frame_id="part-7")
        InspectionServiceStub(channel).Inspect(request)
    record = remembered(running.url, "by-grpc")

    assert (record["door"], record["frame_id"], record["verdict"]) == ("grpc", "part-7", "NG")


@pytest.mark.parametrize("include", ["", "heatmap"])
def test_pictures_of_a_verdict(running: Running, include: str) -> None:
    sent = plain(150, (64, 48))
    url = f"{running.url}/v1/inspect?product=tile&include={include}"
    answer = httpx.post(url, content=sent, headers={"content-type": "image/png"}).json()
    there = f"{running.url}/v1/verdicts/{remembered(running.url, answer['request_id'])['id']}"

    assert httpx.get(f"{there}/frame").content == sent
    assert np.all(np.asarray(picture(httpx.get(f"{there}/heatmap"))) >= 128)
    assert httpx.get(f"{there}/thumbnail").content == sent, "small enough to be its own"


def test_large_images_get_a_small_thumbnail_and_a_tiff_a_jpeg(running: Running) -> None:
    large = encoded(Image.effect_noise((800, 400), 60).convert("RGB"), "TIFF")
    answer = inspect(running.url, large).json()
    there = f"{running.url}/v1/verdicts/{remembered(running.url, answer['request_id'])['id']}"

    thumbnail, frame = picture(httpx.get(f"{there}/thumbnail")), picture(httpx.get(f"{there}/frame"))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (160, 80))
    assert (frame.format, frame.size) == ("JPEG", (800, 400))


def test_pictures_may_not_do_anything(running: Running) -> None:
    record = remembered(running.url, inspect(running.url, plain(3)).json()["request_id"])
    headers = httpx.get(f"{running.url}/v1/verdicts/{record['id']}/frame").headers

    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert (headers["x-content-type-options"], headers["content-type"]) == ("nosniff", "image/png")


def test_chosen_by_the_callers_own_ids(running: Running) -> None:
    """After a lost connection: was that part inspected?"""
    for number in range(3):
        answer = inspect(running.url, plain(20), f"tile&frame_id=own-{number}").json()
        remembered(running.url, answer["request_id"])

    for chosen in (f"frame_id=own-2&request_id={answer['request_id']}", "frame_id=own-2"):
        (record,) = httpx.get(f"{running.url}/v1/verdicts?{chosen}").json()["records"]
        assert record["request_id"] == answer["request_id"]
    assert httpx.get(f"{running.url}/v1/verdicts?frame_id=own-9").json()["records"] == []


def test_chosen_by_product_and_verdict(running: Running) -> None:
    for level, product in ((20, "tile"), (220, "tile"), (127, "bolt")):
        answer = inspect(running.url, plain(level), product).json()
        remembered(running.url, answer["request_id"])

    chosen = httpx.get(f"{running.url}/v1/verdicts?product=bolt&verdict=REVIEW&limit=1").json()["records"]
    assert [(one["product"], one["verdict"], one["reason"]) for one in chosen] == [
        ("bolt", "REVIEW", "guard_band")
    ]
    assert httpx.get(f"{running.url}/v1/verdicts?limit=0").status_code == 422
    assert httpx.get(f"{running.url}/v1/verdicts/nothing-1").status_code == 404


def test_what_was_not_inspected_is_counted(running: Running) -> None:
    assert inspect(running.url, plain(POISON), "bolt").status_code == 500
    assert inspect(running.url, b"no picture", "bolt").status_code == 400

    def counted() -> int:
        counts = httpx.get(f"{running.url}/v1/verdicts").json()["counts"]
        number: int = counts.get("bolt", {}).get("NOT_INSPECTED", 0)
        return number

    wait_until(lambda: counted() == 1)


@contextmanager
def listening(url: str, **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """Events as (id, name, data)."""
    with httpx.stream("GET", f"{url}/v1/verdicts/events", headers=headers, timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    fields = dict[str, str]()
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


def records_until(events: Iterator[tuple[str, str, Any]], request_id: str) -> tuple[str, list[Any]]:
    """All records up to that of a request, and the id of its event."""
    records = list[Any]()
    for event_id, name, data in events:
        records += data["records"] if name == "verdicts" else []
        if any(record["request_id"] == request_id for record in records):
            return event_id, records
    raise AssertionError("the events ended")


def test_verdicts_as_they_happen(running: Running) -> None:
    with listening(running.url) as events:
        state = next(events)
        assert state[1] == "state"
        assert (state[2]["ready"], [one["name"] for one in state[2]["products"]]) == (True, ["bolt", "tile"])
        assert state[2]["products"][0]["serving"]["guard_band"] == 0.02
        next(events)
        answer = inspect(running.url, plain(60)).json()
        event_id, records = records_until(events, answer["request_id"])

    assert records[0]["score"] == answer["score"]
    inspect(running.url, plain(61), **{"x-request-id": "the-next"})
    remembered(running.url, "the-next")
    with listening(running.url, **{"last-event-id": event_id}) as events:
        _, records = records_until(events, "the-next")
    assert [record["request_id"] for record in records] == ["the-next"]


def test_a_watcher_who_leaves_gives_its_place_back(running: Running) -> None:
    history = running.service.history
    with listening(running.url) as events:
        next(events)
        assert history.watchers == 1
    wait_until(lambda: history.watchers == 0)


def test_the_end_of_the_service_ends_the_events(models: Path) -> None:
    with serving(models) as running:
        url = running.url
        stream = listening(url)
        events = stream.__enter__()
        next(events)
    assert all(name in ("state", "verdicts") for _, name, _ in events), "ended, and not cut off"
    stream.__exit__(None, None, None)


def test_everybody_sees_the_products_of_their_token(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models", "tile")
    make_bundle(tmp_path / "models", "bolt")
    tokens = Tokens(tmp_path / "tokens")
    everything, tile = (
        {"authorization": f"Bearer {secret}"} for secret in (tokens.add("all"), tokens.add("tile", "tile"))
    )
    with serving(tmp_path / "models", tokens=tokens.path) as running:
        url = running.url
        for product in ("tile", "bolt"):
            inspect(url, plain(200), product, **everything, **{"x-request-id": product})
        record = remembered(url, "bolt", **everything)

        seen = httpx.get(f"{url}/v1/verdicts", headers=tile).json()
        assert [one["product"] for one in seen["records"]] == ["tile"]
        assert list(seen["counts"]) == ["tile"]
        with listening(url, **tile) as events:
            assert [one["name"] for one in next(events)[2]["products"]] == ["tile"]
            assert [one["product"] for one in next(events)[2]["records"]] == ["tile"]
        for path in (record["id"], *(f"{record['id']}/{part}" for part in ("frame", "heatmap", "thumbnail"))):
            assert httpx.get(f"{url}/v1/verdicts/{path}", headers=everything).status_code == 200
            assert httpx.get(f"{url}/v1/verdicts/{path}", headers=tile).status_code == 404
            assert httpx.get(f"{url}/v1/verdicts/{path}").status_code == 401
        for path in ("/v1/verdicts", "/v1/verdicts/events"):
            assert httpx.get(url + path).status_code == 401
        assert httpx.get(url).status_code == 200, "the page itself, where one signs in"


def test_a_service_that_may_keep_nothing_keeps_nothing(models: Path) -> None:
    with serving(models, history_bytes=0) as running:
        assert inspect(running.url, plain(200)).json()["verdict"] == "NG"
        wait_until(lambda: bool(httpx.get(f"{running.url}/v1/verdicts").json()["counts"]))
        assert httpx.get(f"{running.url}/v1/verdicts").json()["records"] == []


def test_frames_that_fit_no_more_are_forgotten(models: Path) -> None:
    sent = encoded(Image.fromarray(plain_frame(90, (200, 200))), "BMP")
    with serving(models, history_bytes=3 * len(sent)) as running:
        for number in range(6):
            inspect(running.url, sent, **{"x-request-id": str(number)})
        wait_until(lambda: running.service.history.newest == 6)
        records = httpx.get(f"{running.url}/v1/verdicts").json()["records"]
        first = records[-1]["id"]

        assert [record["pictures"] for record in records] == [True] * 2 + [False] * 4
        assert httpx.get(f"{running.url}/v1/verdicts/{first}").json()["verdict"] == "OK"
        assert httpx.get(f"{running.url}/v1/verdicts/{first}/frame").status_code == 404
