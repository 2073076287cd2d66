"""The history is limited in bytes and in number."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle import Region
from service import history as module
from service.errors import Busy, NotFound
from service.history import MAX_WATCHERS, NOT_INSPECTED, History
from service.record import Record
from service.values import Inspection
from tests.console.records import record
from tests.service.loop import on_a_loop


def everything(product: str) -> bool:
    return True


@given(st.lists(st.integers(0, 500), max_size=60))
def test_images_kept_are_the_newest_that_fit(sizes: list[int]) -> None:
    history, added = History(max_bytes=1000), [record(size) for size in sizes]
    for one in added:
        history.add(one)

    kept = [one.image.nbytes for one in added if one.image is not None]
    assert history.image_bytes == sum(kept) <= 1000
    assert kept == sizes[len(sizes) - len(kept) :]
    assert len(kept) == len(sizes) or sum(kept) + sizes[-len(kept) - 1] > 1000
    assert history.latest(everything, 1000) == added[::-1]


def test_an_image_larger_than_all_room_is_not_kept_and_the_numbers_are() -> None:
    history, large = History(max_bytes=1000), record(2000)
    history.add(large)

    assert history.image_bytes == 0
    assert history.latest(everything, 10) == [large]


@pytest.mark.parametrize("count", [3, 32, 40])
def test_of_many_regions_those_with_the_highest_peaks_are_kept(count: int) -> None:
    regions = tuple(Region(i, 0, 1, 1, 1, peak=0.9 - i / 100) for i in range(count))
    one = record()
    assert one.image is not None
    result = replace(one.result, finding=replace(one.result.finding, regions=regions))
    kept = Record.of(Inspection(result, frozenset(), {}, one.image), "http", "", "")
    assert kept.result.finding.regions == regions[:32]


def test_the_oldest_verdict_goes_with_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    history, added = History(max_bytes=10**6), [record() for _ in range(8)]
    for one in added:
        history.add(one)

    assert history.latest(everything, 100) == added[:2:-1]
    assert history.image_bytes == 5 * 100
    with pytest.raises(NotFound):
        history.get(f"{history.id}-3", everything)
    assert history.get(f"{history.id}-4", everything) is added[3]


def test_an_id_of_another_run_finds_nothing() -> None:
    history = History(max_bytes=1000)
    history.add(record())
    for wrong in ("00000000-1", f"{history.id}-2", f"{history.id}-0", history.id, "", "../../etc/passwd"):
        with pytest.raises(NotFound):
            history.get(wrong, everything)


def test_products_out_of_scope_are_not_there() -> None:
    history = History(max_bytes=1000)
    history.add(record(product="tile"))
    history.add(record(product="bolt"))

    def only_tile(product: str) -> bool:
        return product == "tile"

    assert [one.result.product for one in history.latest(only_tile, 10)] == ["tile"]
    assert history.counts_of(only_tile) == {"tile": {"OK": 1}}
    with pytest.raises(NotFound):
        history.get(f"{history.id}-2", only_tile)


def test_without_room_verdicts_are_counted_only() -> None:
    history = History(max_bytes=0)
    history.add(record())
    history.count("tile", NOT_INSPECTED)

    assert history.latest(everything, 10) == []
    assert history.counts == {"tile": {"OK": 1, NOT_INSPECTED: 1}}


def test_what_came_after_a_record() -> None:
    history = History(max_bytes=10**6)
    for _ in range(10):
        history.add(record())

    newer = history.latest(everything, 100, after=history.number(f"{history.id}-7"))
    assert [one.number for one in newer] == [10, 9, 8]
    assert [one.number for one in history.latest(everything, 2)] == [10, 9]
    assert len(history.latest(everything, 100, after=history.number("00000000-7"))) == 10


def test_places_for_watchers_are_limited_and_come_back() -> None:
    history = History(max_bytes=0)
    with ExitStack() as watching:
        for _ in range(MAX_WATCHERS):
            watching.enter_context(history.watch())
        with pytest.raises(Busy):
            history.watch()
    with history.watch():
        pass


@on_a_loop
async def test_every_watcher_hears_of_news() -> None:
    history = History(max_bytes=10**6)

    async def watch() -> None:
        with history.watch():
            await history.news()

    watchers = [asyncio.create_task(watch()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(watcher.done() for watcher in watchers)
    history.add(record())
    await asyncio.gather(*watchers)
