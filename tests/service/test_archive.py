"""The archive keeps the newest pictures on disk, and never costs an answer."""

import asyncio
import json
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import archive as module
from service.archive import Archive
from service.cli import main
from service.metrics import Metrics
from service.record import Record
from tests.bundles import make_bundle
from tests.console.records import record
from tests.e2e.serving import drd_serve, serving
from tests.service.images import plain
from tests.service.loop import on_a_loop

DAY = 24 * 3600.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


def ng(size: int = 1000, at: float = NOON) -> Record:
    one = record(size, verdict="NG")
    one.at = at
    return one


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def kept(folder: Path, max_bytes: int, *records: Record) -> list[str]:
    """The day, product, verdict and time of each picture in the archive once `records` are added."""

    async def keep() -> None:
        archive = Archive(folder, max_bytes, {"NG"}, Metrics(takt_seconds=1))
        for one in records:
            archive.add(one)
        await archive.close()

    asyncio.run(keep())
    pictures = (path.relative_to(folder) for path in files(folder) if path.suffix == ".tif")
    return [f"{path.parent}/{path.name[:10]}" for path in pictures]


def test_pictures_that_are_not_ok_are_kept_with_their_verdicts(tmp_path: Path) -> None:
    models, archive = tmp_path / "models", tmp_path / "archive"
    archive.mkdir()
    make_bundle(models, "tile")
    bright = plain(200)
    with serving(models, archive=archive) as running:
        answers = [
            httpx.post(f"{running.url}/v1/inspect?product=tile&include=regions&frame_id=a/b", content=body)
            for body in (plain(40), bright, b"no picture")
        ]
        answer = answers[1].json()
    assert [each.status_code for each in answers] == [200, 200, 400]

    verdict, picture = files(archive)
    assert picture.read_bytes() == bright
    assert (picture.suffix, picture.with_suffix(".json")) == (".png", verdict)
    assert picture.relative_to(archive).parts[1:3] == ("tile", "NG")
    assert "-a_b-" in picture.name
    told = json.loads(verdict.read_text())
    at = datetime.fromisoformat(told.pop("at"))
    assert picture.relative_to(archive).parts[0] == f"{at:%Y-%m-%d}"
    assert told == answer | {"door": "http"}
    assert running.sample("drd_archived_total", product="tile", outcome="kept") == 1


def test_which_verdicts_are_kept_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, archive = tmp_path / "models", tmp_path / "archive"
    archive.mkdir()
    make_bundle(models, "tile")
    monkeypatch.setenv("DRD_ARCHIVE_VERDICTS", "OK, REVIEW")
    with serving(models, archive=archive) as running:
        for body in (plain(40), plain(200)):
            httpx.post(f"{running.url}/v1/inspect?product=tile", content=body)

    assert {path.parent.name for path in files(archive)} == {"OK"}


def test_the_oldest_pictures_make_room_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    monday = tmp_path / "2026-03-01" / "tile"
    monday.mkdir(parents=True)
    (monday / "notes.txt").write_text("of a person")
    room = 4000  # for two pictures with their verdicts

    assert kept(tmp_path, room, *(ng(at=NOON + second) for second in range(3))) == [
        "2026-03-01/tile/NG/120001.000",
        "2026-03-01/tile/NG/120002.000",
    ]
    # What an earlier start has left counts, too; so do its days.
    assert kept(tmp_path, room, ng(at=NOON + DAY), ng(at=NOON + 2 * DAY)) == [
        "2026-03-02/tile/NG/120000.000",
        "2026-03-03/tile/NG/120000.000",
    ]
    assert [path.name for path in monday.iterdir()] == ["notes.txt"]
    assert kept(tmp_path, room, ng(at=NOON + 3 * DAY))[0].startswith("2026-03-03")
    assert not (tmp_path / "2026-03-02").exists()


def counted(metrics: Metrics, outcome: str) -> float | None:
    labels = {"product": "tile", "outcome": outcome}
    return metrics.registry.get_sample_value("drd_archived_total", labels)


@on_a_loop
async def test_what_cannot_be_written_is_counted_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, obstacles = Metrics(takt_seconds=1), [tmp_path / "2026-03-01", tmp_path / "2026-03-02"]
    archive = Archive(tmp_path, 10**6, {"NG"}, metrics)
    for day, obstacle in enumerate(obstacles):
        obstacle.write_text("a file where the day's folder should be")
        archive.add(ng(at=NOON + day * DAY))
    await archive._waiting.join()
    for obstacle in obstacles:
        obstacle.unlink()
    archive.add(ng())
    await archive.close()

    assert (counted(metrics, "failed"), counted(metrics, "kept")) == (2, 1)
    assert len(files(tmp_path)) == 2
    assert [str(tmp_path) in each.message for each in caplog.records] == [True]


@on_a_loop
async def test_so_is_one_for_which_no_thread_could_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    metrics = Metrics(takt_seconds=1)
    archive = Archive(tmp_path, 10**6, {"NG"}, metrics)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        archive.add(ng())
        async with asyncio.timeout(10):
            await archive._waiting.join()
    archive.add(ng())
    await archive.close()

    assert (counted(metrics, "failed"), counted(metrics, "kept")) == (1, 1)


@on_a_loop
async def test_pictures_that_wait_for_a_slow_disk_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 2500)
    metrics, disk = Metrics(takt_seconds=1), threading.Event()

    write = module._write

    def write_slowly(files: Mapping[Path, bytes]) -> None:
        disk.wait()
        write(files)

    monkeypatch.setattr(module, "_write", write_slowly)
    archive = Archive(tmp_path, 10**6, {"NG"}, metrics)
    for _ in range(5):
        archive.add(ng(1000))
    assert counted(metrics, "dropped") == 3
    disk.set()
    await archive._waiting.join()
    archive.add(ng(5000))  # larger than all that may wait, but nothing does
    await archive.close()

    assert len(files(tmp_path)) == 2 * 3


@on_a_loop
async def test_the_end_does_not_wait_long_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.1)
    hanging = threading.Event()
    monkeypatch.setattr(module, "_write", lambda files: hanging.wait())
    archive = Archive(tmp_path, 10**6, {"NG"}, Metrics(takt_seconds=1))
    for _ in range(2):
        archive.add(ng())
    await archive.close()
    hanging.set()

    assert [each.message for each in caplog.records] == ["2 pictures for the archive are lost"]


@on_a_loop
async def test_what_waits_keeps_no_heatmap_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, heatmap = threading.Event(), np.zeros((256, 256), np.float32)
    monkeypatch.setattr(module, "_write", lambda files: disk.wait())
    archive, one = Archive(tmp_path, 10**6, {"NG"}, Metrics(takt_seconds=1)), ng()
    assert one.image is not None
    one.image = replace(one.image, heatmap=heatmap)
    gone = weakref.ref(heatmap)
    archive.add(one)
    del one, heatmap
    assert gone() is None
    disk.set()
    await archive.close()


def test_an_archive_that_a_person_has_emptied_fills_again(tmp_path: Path) -> None:
    async def keep() -> None:
        archive = Archive(tmp_path, 40_000, {"NG"}, Metrics(takt_seconds=1))
        for second in range(20):
            archive.add(ng(at=NOON + second))
        await archive._waiting.join()
        shutil.rmtree(tmp_path / "2026-03-01")
        for second in range(60, 70):
            archive.add(ng(at=NOON + second))
        await archive.close()

    asyncio.run(keep())
    assert len(files(tmp_path)) == 2 * 10


def test_what_cannot_be_deleted_stays_and_the_next_goes(tmp_path: Path) -> None:
    stays = tmp_path / "2026-02-01" / "tile" / "NG" / "120000.000-abcdef.tif"
    (stays / "of a person").mkdir(parents=True)  # a folder, which can't be unlinked
    kept(tmp_path, 40_000, *(ng(at=NOON + second) for second in range(40)))
    assert stays.is_dir()
    assert 30_000 < sum(path.stat().st_size for path in files(tmp_path)) <= 40_000
    assert len(list(tmp_path.glob("2026-03-01/*/*/120039.000-*"))) == 2


def test_a_picture_that_can_never_fit_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(kept(tmp_path, 10_000, ng(), ng(), ng(20_000), ng(20_000))) == 2
    assert ["larger than all the archive may hold" in each.message for each in caplog.records] == [True]


def test_nothing_is_written_where_nothing_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(kept(tmp_path, 4000, ng(), ng())) == 2

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert len(kept(tmp_path, 4000, ng(at=NOON + 1))) == 2
    assert "there is no room" in caplog.text


@on_a_loop
async def test_several_services_share_an_archive(tmp_path: Path) -> None:
    """One of them starts first, and writes most."""
    archives = [Archive(tmp_path, 40_000, {"NG"}, Metrics(takt_seconds=1)) for _ in range(2)]
    for second in range(100):
        for archive in archives[: 1 + second % 2]:
            archive.add(ng(at=NOON + second))
    for archive in archives:
        await archive.close()

    assert 30_000 < sum(path.stat().st_size for path in files(tmp_path)) <= 1.1 * 40_000


def test_pictures_of_a_wrong_clock_go_first(tmp_path: Path) -> None:
    later = datetime(2090, 1, 1, tzinfo=UTC).timestamp()
    pictures = [ng(at=start + second) for start in (later, NOON) for second in range(15)]
    kept(tmp_path, 40_000, *pictures)
    assert len(list(tmp_path.glob("2026-03-01/*/*/*.tif"))) == 15


@on_a_loop
async def test_a_disk_that_is_full_is_not_searched_for_every_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, make_room = list[int](), Archive._make_room

    def looked(archive: Archive, needed: int) -> int:
        looks.append(needed)
        return make_room(archive, needed)

    monkeypatch.setattr(Archive, "_make_room", looked)
    (tmp_path / "2026-03-01").write_text("a file where the day's folder should be")
    archive = Archive(tmp_path, 10**6, {"NG"}, metrics := Metrics(takt_seconds=1))
    for _ in range(5):
        archive.add(ng())
    await archive.close()
    assert (counted(metrics, "failed"), len(looks)) == (5, 1)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=128))
def test_any_frame_id_makes_a_file_name(frame_id: str) -> None:
    with TemporaryDirectory() as folder:
        kept(Path(folder), 10**6, replace(ng(), frame_id=frame_id))

        assert len(list(Path(folder).glob("2026-03-01/tile/NG/120000.000-*"))) == 2


@pytest.mark.parametrize("make", [Path.touch, lambda path: None])
def test_an_archive_that_is_no_folder_ends_the_start(tmp_path: Path, make: Callable[[Path], None]) -> None:
    archive = tmp_path / "archive"
    make(archive)

    ended = drd_serve("--models", tmp_path, "--archive", archive)

    assert (ended.returncode, str(archive) in ended.stderr) == (1, True)


def test_a_verdict_that_does_not_exist_cannot_be_kept(
    misuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRD_ARCHIVE_VERDICTS", "BAD")
    assert "DRD_ARCHIVE_VERDICTS: Input should be 'OK', 'NG' or 'REVIEW'" in misuse(main, "--models", ".")
