"""`make soak MINUTES=30`: the real service under everything at once, for as long as you like.

Checked callers over HTTP, gRPC and streams; others that cancel, send slowly or send the hostile corpus; a
new version every ten seconds, some of them damaged; half-way, four times capacity for a minute. Memory,
threads and open files are recorded and plotted. Ends with a verdict: exit status 0, or 1 with what was wrong.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.bundles import make_version
from tests.e2e.serving import Process, process
from tests.hostile.watching import Taken, taken
from tests.service.images import plain
from tests.soak.callers import CALLERS, Doors, time_to_recover

MEBIBYTE = 2**20
LOOK_SECONDS = 2.0
SWAP_SECONDS = 10.0
RECOVERY_SECONDS = 2.0
GROWTH, MIN_GROWTH = 0.1, 32 * MEBIBYTE
SETTINGS = {
    "DRD_WATCH_SECONDS": "0.5",
    "DRD_KEEP_OLD_SECONDS": "1",
    "DRD_DECODE_SECONDS": "1",
    "DRD_HISTORY_BYTES": str(8 * MEBIBYTE),  # full soon: what grows after that grows without need
    "DRD_MAX_CONNECTIONS": "4096",
    "DRD_IDLE_SECONDS": "180",  # longer than overload: no connection of its is closed as a request is sent
    "DRD_LOG_LEVEL": "error",
}


@dataclass(frozen=True)
class Sample:
    """What the service took, so many seconds after the start."""

    seconds: float
    resident: int
    threads: int
    files: int
    processes: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--overload-seconds", type=float, default=60)
    parser.add_argument(
        "--out", type=Path, default=Path("var/soak"), help="folder for samples.csv and soak.png"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        make_version(models, 1)
        with process("--models", models, **SETTINGS) as service:
            doors = Doors(service.url, service.target)
            samples, recovery = soak(service, doors, models, 60 * given.minutes, given.overload_seconds)
            crashed = service.popen.poll() is not None
    record(samples, given.out)
    return judge(doors, samples, recovery, crashed=crashed)


def soak(
    service: Process, doors: Doors, models: Path, seconds: float, overload_seconds: float
) -> tuple[list[Sample], float]:
    """The samples, and how long the service took to recover from overload."""
    samples, started = list[Sample](), time.monotonic()
    with ThreadPoolExecutor(len(CALLERS) + 2) as threads:
        running = [threads.submit(caller, doors) for caller in CALLERS]
        running.append(threads.submit(swapper, doors, models, service))
        running.append(threads.submit(watcher, service, doors, samples, started))
        try:
            doors.ended.wait(max(0.0, seconds / 2 - overload_seconds / 2))
            recovery = overload(doors, Path(models).parent, overload_seconds)
            while time.monotonic() - started < seconds and all(not one.done() for one in running):
                doors.ended.wait(1)
        finally:
            doors.ended.set()
        for one in running:
            if error := one.exception():
                doors.complain(f"a caller was left without an answer: {error!r}")
    samples.append(sample(service, started))
    return samples, recovery


def watcher(service: Process, doors: Doors, samples: list[Sample], started: float) -> None:
    while not doors.ended.wait(LOOK_SECONDS):
        samples.append(sample(service, started))
        if len(samples) % 60 == 0:
            print(f"{samples[-1]}  {sum(doors.seen.values())} requests, {len(doors.wrong)} wrong", flush=True)


def sample(service: Process, started: float) -> Sample:
    now: Taken = taken(service.popen.pid)
    return Sample(time.monotonic() - started, now.resident, now.threads, now.files, now.processes)


def swapper(doors: Doors, models: Path, service: Process) -> None:
    """A new version now and then, every third one damaged; what does not serve leaves the folder."""
    serving, version = 1, 1
    while not doors.ended.wait(SWAP_SECONDS):
        version += 1
        made = make_version(models, version)
        if version % 3 == 0:
            (made / "model.onnx").write_bytes(b"damaged")
            doors.ended.wait(2)
            shutil.rmtree(made)
            doors.note("damaged versions")
            continue
        ends = time.monotonic() + 60
        while not serves(service, version):
            if time.monotonic() > ends:
                doors.complain(f"version {version} does not serve after a minute")
                return
            doors.ended.wait(0.2)
        shutil.rmtree(models / "tile" / str(serving))
        serving = version
        doors.note("swaps")


def serves(service: Process, version: int) -> bool:
    return bool(httpx.get(f"{service.url}/v1/products/tile", timeout=20).json()["version"] == version)


def overload(doors: Doors, folder: Path, seconds: float) -> float:
    """Four times capacity, as measured now, for so long; then how long the service took to recover."""
    image = folder / "frame.jpg"
    image.write_bytes(plain(7, kind="JPEG"))
    capacity = load(doors, image, 5, "--clients", "8")
    doors.overloaded.set()
    load(doors, image, seconds, "--rate", f"{4 * capacity:.0f}", "--deadline-ms", "200")
    recovery = time_to_recover(doors)
    doors.overloaded.clear()
    print(
        f"overload: {4 * capacity:.0f} requests/s for {seconds:g} s, recovered in {recovery:.2f} s",
        flush=True,
    )
    return recovery


def load(doors: Doors, image: Path, seconds: float, *more: str) -> float:
    """Answers 200 per second."""
    where = doors.url.removeprefix("http://")
    command = [sys.executable, "-m", "tests.bench.load", where, str(image), "--product", "tile"]
    done = subprocess.run([*command, "--seconds", str(seconds), *more], capture_output=True, check=False)
    if done.returncode:
        doors.complain(f"the load ended early: {done.stderr.decode()[-200:]}")
        return 0.0
    report = json.loads(done.stdout)
    for status, times in report["statuses"].items():
        for _ in range(times["count"]):
            doors.note(f"overload: {status}")
        if status not in ("0", "200", "429", "503", "504"):  # 0: not let in
            doors.complain(f"overload: {times['count']} answers {status}")
    return float(report["statuses"].get("200", {"count": 0})["count"] / report["seconds"])


def record(samples: list[Sample], out: Path) -> None:
    with (out / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([field.name for field in fields(Sample)])
        rows.writerows(map(astuple, samples))
    mpl.use("Agg")
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(9, 7), layout="constrained")
    minutes = [one.seconds / 60 for one in samples]
    for axis, values, label in (
        (axes[0], [one.resident / MEBIBYTE for one in samples], "memory, MiB"),
        (axes[1], [one.threads for one in samples], "threads"),
        (axes[2], [one.files for one in samples], "open files"),
    ):
        axis.plot(minutes, values, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[2].set_xlabel("minutes")
    figure.savefig(out / "soak.png", dpi=110)


def judge(doors: Doors, samples: list[Sample], recovery: float, *, crashed: bool) -> int:
    """Prints the figures and the verdict; the exit status."""
    for what, times in sorted(doors.seen.items()):
        print(f"{times:9} {what}")
    early, late = part(samples, 0.2, 0.4), part(samples, 0.8, 1.0)
    faults = list(dict.fromkeys(doors.wrong))[:20]
    if crashed:
        faults.append("the service has ended")
    if recovery > RECOVERY_SECONDS:
        faults.append(f"{recovery:.1f} s until it had recovered from overload")
    for name in ("resident", "threads", "files"):
        before, after = (statistics.median(getattr(one, name) for one in some) for some in (early, late))
        room = max(GROWTH * before, MIN_GROWTH if name == "resident" else 8)
        unit = MEBIBYTE if name == "resident" else 1
        print(f"{name}: {before / unit:.0f} early, {after / unit:.0f} late")
        if after > before + room:
            faults.append(f"{name} grew from {before / unit:.0f} to {after / unit:.0f}")
    print(f"recovery: {recovery:.2f} s")
    print("verdict:", "; ".join(faults) if faults else "nothing got it down")
    return bool(faults)


def part(samples: list[Sample], first: float, last: float) -> list[Sample]:
    """Those between two shares of the time."""
    return samples[int(first * len(samples)) : max(int(last * len(samples)), 1)]


if __name__ == "__main__":
    sys.exit(main())
