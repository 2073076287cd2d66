"""Looks at a watched folder, one by one."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from service.client.camera import watch
from service.client.camera.pictures import PictureFile, Stamp
from service.client.camera.watch import Watch, stamp_of


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `time.monotonic` says."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def refuse(error: OSError) -> None:
    raise error


def put(folder: Path, name: str, content: bytes = b"picture") -> None:
    """At once, as by a camera that renames its files into place."""
    (folder / "part").write_bytes(content)
    (folder / "part").replace(folder / name)


def names(pictures: list[PictureFile]) -> list[str]:
    return [picture.name for picture in pictures]


def test_a_picture_counts_from_the_last_look_without_it(tmp_path: Path) -> None:
    """However long the look takes that finds it: it may have been there since."""
    looks = Watch(tmp_path, 0, refuse)
    looks.look()
    before = time.monotonic()
    put(tmp_path, "a.png")

    (first,) = looks.look()
    assert first.since is not None
    assert first.since <= before

    after = time.monotonic()
    looks.look()
    put(tmp_path, "a.png", b"another")
    (again,) = looks.look()
    assert again.since is not None
    assert after <= again.since <= time.monotonic()


def test_pictures_come_in_the_order_of_their_making(tmp_path: Path) -> None:
    looks = Watch(tmp_path, 0, refuse)
    for second, name in enumerate(("b.png", "c.png", "a.png")):
        put(tmp_path, name)
        os.utime(tmp_path / name, (second, second))

    assert names(looks.look()) == ["b.png", "c.png", "a.png"]


def test_files_sent_already_are_not_all_looked_at_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But each in its turn."""
    monkeypatch.setattr(watch, "RECHECKS_PER_LOOK", 3)
    for number in range(10):
        put(tmp_path, f"{number}.png")
    looks = Watch(tmp_path, 0, refuse)
    asked = list[str]()
    stamp = watch.stamp_of

    def count(path: Path) -> Stamp | None:
        asked.append(path.name)
        return stamp(path)

    monkeypatch.setattr(watch, "stamp_of", count)
    for _ in range(4):
        assert not looks.look()
    assert len(asked) == 12
    assert len(set(asked)) == 10

    put(tmp_path, "5.png", b"other")
    found = [name for _ in range(4) for name in names(looks.look())]
    assert found == ["5.png"]


def test_another_picture_of_the_same_size_and_time_is_sent(tmp_path: Path) -> None:
    looks = Watch(tmp_path, 0, refuse)
    for content in (b"dark", b"pale"):
        (tmp_path / "part").write_bytes(content)
        os.utime(tmp_path / "part", ns=(10**18, 10**18))
        (tmp_path / "part").replace(tmp_path / "a.png")
        assert names(looks.look()) == ["a.png"]
        assert not looks.look()

    (tmp_path / "a.png").write_bytes(b"bent")  # the same file
    os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
    assert names(looks.look()) == ["a.png"]


@pytest.mark.parametrize("by", ["another", "itself"])
def test_a_picture_is_not_taken_for_the_one_that_was_seen(tmp_path: Path, by: str) -> None:
    """Of two parts whose pictures have one name, the second must not stand for the first, too."""
    looks = Watch(tmp_path, 0, refuse)
    put(tmp_path, "a.png", b"bent")
    (first,) = looks.look()
    if by == "another":
        put(tmp_path, "a.png", b"fine")
    else:
        (tmp_path / "a.png").write_bytes(b"fine")
    (second,) = looks.look()

    with pytest.raises(OSError, match="Replaced or changed"):
        first.read()
    assert second.read() == b"fine"


def test_a_picture_is_complete_when_unchanged_for_a_while(tmp_path: Path, clock: Clock) -> None:
    """Counted from when it was first seen so, not from the look before."""
    clock.now = 100.0
    looks = Watch(tmp_path, 1.0, refuse)
    put(tmp_path, "a.png")
    clock.now = 105.0
    assert looks.left()
    clock.now = 105.9
    (tmp_path / "a.png").write_bytes(b"picture, longer")
    assert not looks.look()
    clock.now = 106.8
    assert not looks.look()
    clock.now = 106.9
    (found,) = looks.look()
    assert (found.name, found.since) == ("a.png", 105.0)


def test_nothing_is_left_only_if_the_folder_tells_so(tmp_path: Path) -> None:
    put(tmp_path, "old.png")
    looks = Watch(tmp_path, 0, refuse)
    assert not looks.left()
    tmp_path.rename(tmp_path.with_name("away"))
    assert looks.left()
    tmp_path.with_name("away").rename(tmp_path)
    assert not looks.left()
    put(tmp_path, "new.png")
    assert looks.left()
    assert looks.left()


def test_what_stays_empty_or_leads_nowhere_is_given_once(tmp_path: Path, clock: Clock) -> None:
    clock.now = 100.0
    looks = Watch(tmp_path, 0, refuse)
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "slow.png").touch()
    put(tmp_path, "good.png")
    assert names(looks.look()) == ["good.png"]
    clock.now = 101.0
    put(tmp_path, "slow.png")
    assert names(looks.look()) == ["slow.png"]
    clock.now = 102.0
    assert sorted(names(looks.look())) == ["empty.png", "gone.png", "loop.png"]
    clock.now = 200.0
    assert not looks.look()
    (tmp_path / "empty.png").write_bytes(b"picture")
    assert names(looks.look()) == ["empty.png"]


def test_a_picture_is_waited_for_while_it_cannot_be_read(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut, opened = {"never.png", "soon.png"}, Path.open

    def open_if_shared(path: Path, mode: str) -> Any:
        if path.name in shut:
            raise PermissionError
        return opened(path, mode)

    looks = Watch(tmp_path, 0, refuse)
    for name in shut:
        put(tmp_path, name)
    monkeypatch.setattr(Path, "open", open_if_shared)
    assert not looks.look()
    clock.now = 1.0
    assert not looks.look()
    shut.remove("soon.png")
    assert names(looks.look()) == ["soon.png"]
    clock.now = 2.0
    assert names(looks.look()) == ["never.png"]  # to be counted as not inspected


def test_a_picture_that_is_replaced_during_a_look_is_not_given_as_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Watch(tmp_path, 0, refuse)
    put(tmp_path, "a.png", b"half")
    with monkeypatch.context() as replacing:

        def replaced(path: Path) -> Stamp | None:
            stamp = stamp_of(path)
            put(tmp_path, "a.png")
            return stamp

        replacing.setattr(watch, "stamp_of", replaced)
        assert not looks.look()
    (picture,) = looks.look()
    assert picture.read() == b"picture"


def test_a_picture_that_failed_for_a_moment_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.png")
    looks = Watch(tmp_path, 0, refuse)
    with monkeypatch.context() as failing:
        failing.setattr(watch, "stamp_of", lambda _: watch.UNKNOWN_STAMP)
        failing.setattr(watch, "_GRACE_SECONDS", 0)
        assert not looks.look()
        put(tmp_path, "new.png")
        assert names(looks.look()) == ["new.png"]  # to be counted as not inspected
    assert names(looks.look()) == ["new.png"]


def test_pictures_behind_an_empty_folder_are_not_forgotten(tmp_path: Path, clock: Clock) -> None:
    """A share that is away leaves the empty folder it is mounted on."""
    folder, share = tmp_path / "in", tmp_path / "share"
    folder.mkdir()
    put(folder, "a.png")
    looks = Watch(folder, 0, refuse)
    folder.rename(share)
    folder.mkdir()
    for clock.now in (1, 10_000):
        assert looks.look() == []
    folder.rmdir()
    share.rename(folder)
    assert looks.look() == []


def test_a_picture_that_is_missing_for_long_is_forgotten(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "stamp_of", lambda _: Stamp(1, 1, 1, 1))
    monkeypatch.setattr(watch, "can_be_read", lambda *_: True)
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    looks = Watch(tmp_path, 0, refuse)
    (tmp_path / "a.png").unlink()
    assert not looks.look()
    clock.now = 599.0
    put(tmp_path, "a.png")
    assert not looks.look()
    (tmp_path / "a.png").unlink()
    assert not looks.look()
    clock.now = 1199.0
    assert not looks.look()
    put(tmp_path, "a.png")
    assert names(looks.look()) == ["a.png"]
