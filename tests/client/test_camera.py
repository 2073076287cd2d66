"""drd-camera against a real service: what it sends, saves and prints, and its exit status."""

import asyncio
import csv
import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.client import AsyncClient, DeadlinePassed
from service.client.camera.camera import Camera, Pace, Sent
from service.client.camera.cli import main
from service.client.camera.pictures import PictureFile
from tests.client.conftest import refusals
from tests.e2e.serving import Running, wait_until
from tests.service.engines import Gate
from tests.service.images import plain

DARK, BRIGHT = 30, 200
ANYHOW = ("--product", "tile", "--retries", "1000", "--deadline-ms", "60000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two dark pictures, which are OK, and in a subfolder a bright one, which is NG."""
    put(tmp_path / "in/a.png", DARK)
    put(tmp_path / "in/b.png", DARK)
    put(tmp_path / "in/deeper/c.png", BRIGHT)
    (tmp_path / "in/notes.txt").write_text("no picture")
    return tmp_path / "in"


def put(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plain(level))
    return path


def camera(address: str, *arguments: str | Path) -> int:
    return main([*ANYHOW, "--to", address, *map(str, arguments)])


def command(address: str, *arguments: str | Path) -> list[str]:
    """The same as a process of its own."""
    return [sys.executable, "-m", "service.client.camera.cli", *ANYHOW, "--to", address, *map(str, arguments)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return sorted(csv.DictReader(lines), key=lambda row: int(row["number"]))


def test_a_folder_is_sent_and_kept(
    address: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("--csv", tmp_path / "all.csv", "--jsonl", tmp_path / "all.jsonl", "--overlays", tmp_path / "ng")

    assert camera(address, folder, *kept) == 3

    table = rows(tmp_path / "all.csv")
    assert [row["frame_id"] for row in table] == ["a.png", "b.png", "deeper/c.png"]
    assert [row["verdict"] for row in table] == ["OK", "OK", "NG"]
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    regions = {line["frame_id"]: len(line["regions"]) for line in lines}
    assert regions == {"a.png": 0, "b.png": 0, "deeper/c.png": 1}
    assert [path.name for path in (tmp_path / "ng").iterdir()] == ["000003-c-NG.png"]
    assert (tmp_path / "ng/000003-c-NG.png").read_bytes().startswith(b"\x89PNG")
    header, figures = capsys.readouterr().out.splitlines()
    assert dict(zip(header.split()[:2], figures.split()[:2], strict=True))["done"] == "3"


def test_known_parts_have_to_get_the_verdict_that_is_expected(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert camera(address, folder / "deeper", "--expect", "NG") == 0
    assert camera(address, folder / "a.png", "--expect", "OK") == 0
    capsys.readouterr()

    assert camera(address, folder, "--expect", "NG") == 3

    told = capsys.readouterr().out.splitlines()[2:]
    assert sorted(told) == [f"expected NG: '{folder / name}.png' is OK" for name in "ab"]


def test_a_picture_that_is_not_as_expected_is_told_from_its_namesakes(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "left/1.png", BRIGHT)
    wrong = put(tmp_path / "right/1.png", DARK)
    assert camera(address, tmp_path / "left", tmp_path / "right", "--expect", "NG") == 3
    assert capsys.readouterr().out.splitlines()[2:] == [f"expected NG: '{wrong}' is OK"]


def test_all_ok_is_0(address: str, folder: Path) -> None:
    assert camera(address, folder / "a.png", folder / "b.png", "--quiet") == 0


def test_a_picture_not_inspected_is_status_1_whatever_the_others(
    address: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")

    assert camera(address, folder, "--csv", tmp_path / "all.csv") == 1

    assert [row["error"] for row in rows(tmp_path / "all.csv")] == ["", "", "BadInput", ""]
    assert "BadInput" in capsys.readouterr().out


def test_an_unreadable_file_is_reported(address: str, folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(folder / "nowhere.png")
    names = "\n".join(str(folder / name) for name in ("a.png", "b.png"))

    ended = run_camera(address, "-", "--csv", tmp_path / "all.csv", given=names)

    assert ended.returncode == 1
    assert {row["frame_id"]: row["error"] for row in rows(tmp_path / "all.csv")} == {
        "a.png": "Unreadable",
        "b.png": "",
    }


def test_a_name_that_is_not_text_does_not_stop_the_run(address: str, folder: Path, tmp_path: Path) -> None:
    """In a folder and in a list, readable or not."""
    odd, gone = (Path(os.fsdecode(bytes(folder) + name)) for name in (b"/f\xfcr.png", b"/g\xfcr.png"))
    put(odd, BRIGHT)
    kept = ("--csv", tmp_path / "all.csv", "--jsonl", tmp_path / "all.jsonl", "--overlays", tmp_path / "ng")

    assert camera(address, folder, *kept) == 3

    assert [row["frame_id"] for row in rows(tmp_path / "all.csv")] == [
        "a.png", "b.png", "deeper/c.png", "f%FCr.png"
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert f"{folder}/f\\udcfcr.png" in {line["picture"] for line in lines}

    names = b"\n".join(map(bytes, (gone, odd, folder / "a.png"))) + b"\na\0.png\n"
    kept = ("--csv", tmp_path / "list.csv", "--jsonl", tmp_path / "list.jsonl", "--overlays", tmp_path / "ng")
    ended = run_camera(address, "-", *kept, given=os.fsdecode(names))

    assert ended.returncode == 1
    assert {row["frame_id"]: row["error"] for row in rows(tmp_path / "list.csv")} == {
        "g%FCr.png": "Unreadable",
        "f%FCr.png": "",
        "a.png": "",
        "a%00.png": "Unreadable",
    }
    assert "Unreadable" in ended.stdout


def test_a_list_comes_on_standard_input(address: str, folder: Path) -> None:
    names = f"{folder / 'b.png'}\n\n{folder / 'a.png'}\n"

    ended = run_camera(address, "-", given=names)

    assert (ended.returncode, ended.stderr.count("done")) == (0, 1)


def run_camera(address: str, *arguments: str | Path, given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(address, *arguments),
        input=given,
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},  # as in every locale except C
    )


def test_pictures_are_repeated_and_counted(address: str, folder: Path, tmp_path: Path) -> None:
    again = ("--repeat", 0, "--count", 20, "--window", 2)

    assert camera(address, folder / "a.png", *map(str, again), "--csv", tmp_path / "all.csv") == 0

    assert [row["frame_id"] for row in rows(tmp_path / "all.csv")] == ["a.png"] * 20


def test_a_pace_that_cannot_be_kept_is_reported(
    address: str, folder: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.shut()
    running = threading.Timer(0.5, gate.open)
    running.start()

    status = camera(address, folder / "a.png", "--repeat", "30", "--rate", "100", "--window", "1")

    running.join()
    assert status == 0
    assert "could not keep 100 per second" in capsys.readouterr().out


def test_late_is_counted_from_when_a_picture_was_due(
    address: str, folder: Path, gate: Gate, tmp_path: Path, running: Running
) -> None:
    """With a window of one, later pictures are late without having been sent."""

    def sent() -> float:
        samples = (one for family in running.service.metrics.registry.collect() for one in family.samples)
        return sum(one.value for one in samples if one.name == "drd_requests_total")

    before = sent()
    gate.shut()
    paced = ("--rate", "10000", "--window", "1", "--deadline-ms", "50", "--retries", "0")

    status = camera(
        address, folder / "a.png", "--count", "200", "--repeat", "0", *paced, "--csv", tmp_path / "x"
    )

    gate.open()
    assert status == 1
    assert {row["error"] for row in rows(tmp_path / "x")} <= {"DeadlinePassed", "Refused"}
    assert sent() - before < 100


def test_the_deadline_of_a_watched_picture_begins_when_it_was_made(address: str, folder: Path) -> None:
    async def made_long_ago() -> AsyncIterator[PictureFile]:
        yield PictureFile(folder / "a.png", "a.png", since=time.monotonic() - 100)

    async def run() -> list[Sent]:
        async with AsyncClient(address) as drd:
            line = Camera(drd, "tile", None, (), 50.0, 1, Pace(None))
            return [sent async for sent in line.run(made_long_ago(), None)]

    (sent,) = asyncio.run(run())
    assert isinstance(sent.outcome.error, DeadlinePassed)
    assert sent.outcome.seconds >= 100


def test_a_list_that_cannot_be_read_is_one_line(address: str) -> None:
    listed = command(address, "--quiet", "-")
    shell = ["sh", "-c", 'exec "$0" "$@" <&-', *listed]

    with Path(os.devnull).open("wb") as unreadable:
        failed = subprocess.run(
            listed, stdin=unreadable, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    closed = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (failed.returncode, failed.stderr) == (1, "drd-camera: [Errno 9] Bad file descriptor\n")
    assert closed.returncode == 2
    assert closed.stderr.endswith("'-': standard input is closed\n")


def test_a_terminal_need_not_know_every_character(address: str, folder: Path) -> None:
    poor = os.environ | {"PYTHONIOENCODING": "latin-1"}
    (folder / "a.png").write_bytes(b"no picture")  # without any answer, the table has dashes

    for arguments, status in (["--help"], 0), ([folder / "a.png"], 1):
        ended = subprocess.run(
            command(address, "--quiet", *arguments), capture_output=True, env=poor, check=False
        )
        assert ended.returncode == status
        assert b"Traceback" not in ended.stderr


@contextmanager
def watching(address: str, folder: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    watch = command(address, "--watch", folder, *arguments)
    popen = subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert popen.stderr is not None
        assert "seconds" in popen.stderr.readline()
        yield popen
    finally:
        popen.kill()
        popen.communicate()


def stopped(popen: subprocess.Popen[str]) -> int:
    popen.send_signal(signal.SIGTERM)
    return popen.wait(30)


def test_a_folder_is_watched_until_it_is_stopped(address: str, tmp_path: Path, running: Running) -> None:
    put(tmp_path / "spool/old.png", DARK)
    kept = tmp_path / "all.csv"

    def seen() -> Sequence[str]:
        return [f"{row['frame_id']} {row['verdict']}" for row in rows(kept)]

    with watching(address, tmp_path / "spool", "--csv", kept, "--settle-ms", "0") as popen:
        put(tmp_path / "new.png", DARK)
        (tmp_path / "new.png").replace(tmp_path / "spool/new.png")
        wait_until(lambda: len(rows(kept)) == 1)
        put(tmp_path / "again.png", BRIGHT)
        (tmp_path / "again.png").replace(tmp_path / "spool/new.png")
        wait_until(lambda: len(rows(kept)) == 2)
        status = stopped(popen)

    assert seen() == ["new.png OK", "new.png NG"]
    assert status == 3


def test_pictures_that_were_away_are_not_sent_again(address: str, tmp_path: Path) -> None:
    """The share, under a link, makes room for another folder and comes back."""
    share, other, kept = tmp_path / "share", tmp_path / "other", tmp_path / "all.csv"
    spool = tmp_path / "spool"
    put(share / "old.png", DARK)
    put(other / "first.png", DARK)
    link(spool, share)

    with watching(address, spool, "--csv", kept, "--settle-ms", "0") as popen:
        put(tmp_path / "new.png", DARK).replace(share / "new.png")
        wait_until(lambda: len(rows(kept)) == 1)
        link(spool, other)  # seen without the others
        wait_until(lambda: len(rows(kept)) == 2)
        link(spool, share)
        put(tmp_path / "last.png", DARK).replace(share / "last.png")  # seen with them
        wait_until(lambda: "last.png" in {row["frame_id"] for row in rows(kept)})
        assert stopped(popen) == 0

    assert [row["frame_id"] for row in rows(kept)] == ["new.png", "first.png", "last.png"]


def link(path: Path, target: Path) -> None:
    (path.parent / "link").symlink_to(target)
    (path.parent / "link").replace(path)


def test_what_cannot_be_read_does_not_stop_a_watch(address: str, tmp_path: Path) -> None:
    """It counts as not inspected, and is sent if it is written after all."""
    spool, kept = tmp_path / "spool", tmp_path / "all.csv"
    spool.mkdir()

    with watching(address, spool, "--csv", kept, "--settle-ms", "0") as popen:
        assert popen.stderr is not None
        (spool / "loop.png").symlink_to("loop.png")
        (spool / "empty.png").touch()
        put(tmp_path / "good.png", BRIGHT).replace(spool / "good.png")
        wait_until(lambda: len(rows(kept)) == 3)
        assert {row["frame_id"]: row["error"] or row["verdict"] for row in rows(kept)} == {
            "good.png": "NG",
            "loop.png": "Unreadable",
            "empty.png": "Unreadable",
        }
        said = popen.stderr.readline() + popen.stderr.readline()
        assert "loop.png: " in said
        assert "empty.png: The file is empty" in said
        put(tmp_path / "late.png", DARK).replace(spool / "empty.png")
        wait_until(lambda: len(rows(kept)) == 4)
        assert stopped(popen) == 1
        assert not popen.stderr.read()

    assert (rows(kept)[3]["frame_id"], rows(kept)[3]["verdict"]) == ("empty.png", "OK")


def test_a_share_may_be_away_for_a_while(address: str, tmp_path: Path, gate: Gate) -> None:
    """That is said once, and pictures in flight are still answered."""
    spool, away, kept = tmp_path / "spool", tmp_path / "away", tmp_path / "all.csv"
    spool.mkdir()

    with watching(address, spool, "--csv", kept, "--settle-ms", "0") as popen:
        assert popen.stderr is not None
        gate.shut()
        put(tmp_path / "first.png", DARK).replace(spool / "first.png")
        gate.wait_for_batch()
        spool.rename(away)
        assert str(spool) in popen.stderr.readline()
        gate.open()
        wait_until(lambda: len(rows(kept)) == 1)
        away.rename(spool)
        put(tmp_path / "second.png", DARK).replace(spool / "second.png")
        wait_until(lambda: len(rows(kept)) == 2)
        assert stopped(popen) == 0
        assert str(spool) not in popen.stderr.read()

    assert [row["frame_id"] for row in rows(kept)] == ["first.png", "second.png"]


def test_a_picture_that_is_still_being_written_is_left_alone(address: str, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    whole, kept = plain(DARK, (64, 64), "BMP"), tmp_path / "all.csv"

    with watching(address, tmp_path / "spool", "--csv", kept, "--settle-ms", "200") as popen:
        with (tmp_path / "spool/slow.bmp").open("wb") as slow:
            for start in range(0, len(whole), 1000):
                slow.write(whole[start : start + 1000])
                slow.flush()
        wait_until(lambda: len(rows(kept)) == 1)
        popen.send_signal(signal.SIGINT)
        assert popen.wait(30) == 0

    assert [row["verdict"] for row in rows(kept)] == ["OK"]


def test_a_folder_that_was_not_sent_to_its_end_is_1(address: str, folder: Path, tmp_path: Path) -> None:
    """Without --repeat 0 a stop leaves something out, even if all that was sent is OK."""
    good, kept = str(folder / "a.png"), tmp_path / "all.csv"
    for number, (arguments, status) in enumerate(
        [
            ([good, good, "--rate", "0.01"], 1),
            ([good, "--repeat", "0", "--count", "2", "--rate", "0.01"], 1),
            ([good, "--repeat", "0", "--rate", "0.01"], 0),
        ]
    ):
        sending = command(address, *arguments, "--csv", kept)
        with subprocess.Popen(sending, stdout=subprocess.PIPE) as popen:
            wait_until(lambda many=number + 1: kept.exists() and len(rows(kept)) == many)  # type: ignore[misc]
            popen.send_signal(signal.SIGTERM)
            said = popen.communicate(timeout=30)[0]
            assert popen.returncode == status
            assert (b"stopped before" in said) == bool(status)


def test_a_second_signal_ends_it_at_once(address: str, folder: Path, gate: Gate) -> None:
    gate.shut()
    assert_ends_at_once(command(address, "--quiet", folder / "a.png"), gate.wait_for_batch)
    gate.open()


def test_a_second_signal_ends_it_at_once_though_nobody_reads_what_it_says(
    address: str, folder: Path, gate: Gate
) -> None:
    """As with `2>&1 | tee log`: Ctrl-C ends both."""
    gate.shut()
    sending = command(address, "--quiet", folder / "a.png")
    with subprocess.Popen(sending, stderr=subprocess.PIPE) as popen:
        assert popen.stderr is not None
        gate.wait_for_batch()
        popen.stderr.close()

        def interrupted() -> bool:
            popen.send_signal(signal.SIGINT)
            return popen.poll() is not None

        try:
            wait_until(interrupted)
        finally:
            popen.kill()
            gate.open()
    assert popen.returncode == 1


def test_a_signal_ends_it_whichever_thread_gets_it(address: str, folder: Path, tmp_path: Path) -> None:
    """Also while the event loop waits for something else."""
    kept = tmp_path / "all.csv"
    listed = command(address, "--quiet", "--csv", kept, "-")
    with subprocess.Popen(listed, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as popen:
        assert popen.stdin is not None
        popen.stdin.write(os.fsencode(folder / "a.png") + b"\n")
        popen.stdin.flush()
        wait_until(lambda: kept.exists() and len(rows(kept)) == 1)
        newest = max(int(thread.name) for thread in Path(f"/proc/{popen.pid}/task").iterdir())
        assert newest != popen.pid
        os.kill(newest, signal.SIGTERM)
        assert popen.wait(10) == 1


def test_a_run_leaves_the_signals_as_they_were(address: str, folder: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert camera(address, "--quiet", folder / "a.png") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def assert_ends_at_once(sending: list[str], wait: Callable[[], object]) -> None:
    """With two signals after the wait."""
    with subprocess.Popen(sending, stderr=subprocess.PIPE, text=True) as popen:
        wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            popen.send_signal(number)
        said = popen.communicate(timeout=30)[1]
    assert popen.returncode == 1
    assert said == "drd-camera: stopped at once: the pictures under way have no verdict\n"


def test_a_second_signal_ends_it_though_a_line_cannot_be_written(
    address: str, folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "lines")
    full = ("--jsonl", tmp_path / "lines", "--repeat", "0", "--quiet")  # nobody reads them
    reader = os.open(tmp_path / "lines", os.O_RDWR)

    def stalled() -> bool:
        """Whether there is no room for another line."""
        ready = select.select([], [reader], [], 0)[1]
        return not ready

    assert_ends_at_once(command(address, *full, folder / "a.png"), lambda: wait_until(stalled))
    os.close(reader)


def test_a_watch_that_is_stopped_before_a_picture_is_complete_is_1(address: str, tmp_path: Path) -> None:
    spool, kept = tmp_path / "spool", tmp_path / "all.csv"
    spool.mkdir()

    with watching(address, spool, "--csv", kept, "--settle-ms", "2000") as popen:
        put(tmp_path / "first.png", DARK).replace(spool / "first.png")
        wait_until(lambda: len(rows(kept)) == 1)
        put(tmp_path / "last.png", DARK).replace(spool / "last.png")
        assert stopped(popen) == 1


def test_links_are_followed_once_and_dangling_ones_reported(
    address: str, folder: Path, tmp_path: Path
) -> None:
    put(tmp_path / "elsewhere/ng.png", BRIGHT)
    (folder / "lot").symlink_to(tmp_path / "elsewhere")
    (folder / "deeper/up").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "lot2").symlink_to("nowhere")

    assert camera(address, folder, "--csv", tmp_path / "all.csv") == 1

    assert {row["frame_id"]: row["error"] or row["verdict"] for row in rows(tmp_path / "all.csv")} == {
        "a.png": "OK",
        "b.png": "OK",
        "deeper/c.png": "NG",
        "gone.png": "Unreadable",
        "lot/ng.png": "NG",
        "lot2": "Unreadable",
    }


def test_a_subfolder_that_cannot_be_read_is_a_failed_start(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even root may: tests may run as root, so the refusal is put in."""
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deeper"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert camera(address, folder) == 1
    assert "deeper" in capsys.readouterr().err


def test_a_file_that_is_no_picture_for_sure_is_not_read(address: str, folder: Path, tmp_path: Path) -> None:
    """It could exhaust the memory, or keep the camera waiting."""
    with (folder / "b.png").open("wb") as huge:
        huge.truncate(1 << 40)
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").touch()

    assert camera(address, folder, "--csv", tmp_path / "all.csv") == 1

    table = {row["frame_id"]: row["error"] or row["verdict"] for row in rows(tmp_path / "all.csv")}
    assert {name for name, what in table.items() if what == "Unreadable"} == {
        "b.png",
        "pipe.png",
        "empty.png",
    }
    assert table["deeper/c.png"] == "NG"
    assert rows(tmp_path / "all.csv")[1]["detail"].endswith("File too large")


def test_an_overlay_of_a_long_name_is_saved(address: str, folder: Path, tmp_path: Path) -> None:
    put(folder / f"{'ü' * 120}.png", BRIGHT)

    assert camera(address, folder, "--overlays", tmp_path / "ng") == 3

    assert sorted(path.name for path in (tmp_path / "ng").iterdir()) == [
        "000003-c-NG.png",
        f"000004-{'ü' * 100}-NG.png",
    ]


def test_an_overlay_that_cannot_be_saved_does_not_stop_the_run(
    address: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even root may write that folder."""
    put(folder / "b.png", BRIGHT)

    kept = ("--overlays", "/proc/self", "--csv", tmp_path / "all.csv", "--quiet")
    assert camera(address, folder, *kept) == 1

    assert [row["verdict"] for row in rows(tmp_path / "all.csv")] == ["OK", "NG", "NG"]
    assert capsys.readouterr().err.count("drd-camera: ") == 1


def test_lines_are_added_to_those_of_earlier_runs(address: str, folder: Path, tmp_path: Path) -> None:
    kept = ("--csv", tmp_path / "all.csv", "--jsonl", tmp_path / "all.jsonl")

    for name in ("a.png", "b.png"):
        assert camera(address, folder / name, *kept) == 0

    assert [row["picture"] for row in rows(tmp_path / "all.csv")] == [
        str(folder / name) for name in ("a.png", "b.png")
    ]
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2


def test_overlays_of_earlier_runs_stay(address: str, folder: Path, tmp_path: Path) -> None:
    kept = ("--overlays", tmp_path / "ng", "--quiet")
    assert camera(address, folder / "deeper/c.png", *kept) == 3
    first = (tmp_path / "ng/000001-c-NG.png").read_bytes()
    (folder / "deeper/c.png").write_bytes(plain(BRIGHT, (40, 60)))

    assert camera(address, folder / "deeper/c.png", *kept) == 3

    assert (tmp_path / "ng/000001-c-NG.png").read_bytes() == first
    assert len(list((tmp_path / "ng").iterdir())) == 2


def test_a_line_that_was_cut_does_not_take_the_next_with_it(
    address: str, folder: Path, tmp_path: Path
) -> None:
    kept = ("--csv", tmp_path / "all.csv", "--jsonl", tmp_path / "all.jsonl")
    assert camera(address, folder / "a.png", *kept) == 0
    for path, cut in (("all.csv", '2026-11-28,1,"/spool/part 4711, si'), ("all.jsonl", '{"time": "2026-11')):
        with (tmp_path / path).open("a") as lines:
            lines.write(cut)

    assert camera(address, folder / "b.png", *kept) == 0

    assert json.loads((tmp_path / "all.jsonl").read_text().splitlines()[-1])["frame_id"] == "b.png"
    with (tmp_path / "all.csv").open() as lines:
        assert [row["frame_id"] for row in csv.DictReader(lines)] == ["a.png", None, "b.png"]


def test_lines_that_cannot_be_written_end_the_run_in_order(address: str, folder: Path) -> None:
    full = ("--repeat", "50", "--jsonl", "/dev/full", "--quiet")

    ended = run_camera(address, folder, *full, given="")

    assert ended.returncode == 1
    assert ended.stderr == "drd-camera: [Errno 28] No space left on device\n"


def test_a_verdict_is_that_of_its_picture_whatever_their_names(
    address: str, folder: Path, tmp_path: Path, gate: Gate, running: Running
) -> None:
    """The third's name is under way."""
    names = [put(folder / name, DARK) for name in ("w.png", "x.png")] + [put(folder / "y/x.png", BRIGHT)]

    before = refusals(running)
    gate.shut()
    with ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(
            run_camera, address, "-", "--csv", tmp_path / "all.csv", given="\n".join(map(str, names))
        )
        try:
            wait_until(lambda: refusals(running) > before)  # there is room for two
        finally:
            gate.open()
        ended = under_way.result()

    assert ended.returncode == 3, ended.stderr
    assert [(row["picture"], row["verdict"]) for row in rows(tmp_path / "all.csv")] == [
        (str(path), verdict) for path, verdict in zip(names, ("OK", "OK", "NG"), strict=True)
    ]


@pytest.mark.parametrize("token", ["a b", "", "one\ntwo\n", "ü"])
def test_a_token_that_is_not_valid_is_one_line(
    token: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")

    assert main(["--product", "tile", "--token-file", str(tmp_path / "token"), str(folder)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "the token is not valid" in line


def test_a_failed_start_is_one_line(
    address: str, folder: Path, tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [
        (["--product", "nope", "--to", address, str(folder)], "product 'nope' is not served"),
        (["--product", "tile", "--to", address, str(tmp_path / "nowhere")], "nowhere"),
        (["--product", "tile", "--to", f"http://127.0.0.1:{free_port}", str(folder)], "can't reach"),
        (["--product", "tile", "--to", f"grpc://127.0.0.1:{free_port}", str(folder)], "can't reach"),
        (["--product", "tile", "--to", address, "--token-file", str(tmp_path / "no"), str(folder)], "no"),
    ]
    for arguments, reason in refused:
        assert main(arguments) == 1
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert reason in said[0]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to", "ftp://x", "."],
        ["--rate", "0", "."],
        ["--window", "0", "."],
        ["--watch", "nowhere"],
        ["--watch", "a" * 300],
        ["--watch", "--rate", "3", "."],
        ["-", "."],
        ["--key", "key.pem", "."],
    ],
)
def test_misuse_is_2(arguments: list[str], misuse: Callable[..., str]) -> None:
    said = misuse(main, "--product", "tile", *arguments)

    assert "usage" in said
    assert "invalid _" not in said  # argparse's words for a function's name
