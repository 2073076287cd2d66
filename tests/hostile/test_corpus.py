"""Thousands of hostile requests against the running service: answered each, and nobody else notices."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.bundles import make_bundle
from tests.e2e.serving import Process, process, wait_until
from tests.hostile.corpus import Case, corpus
from tests.hostile.watching import taken
from tests.service.images import plain

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

CALLERS = 4
MIN_CASES = 5000
MEBIBYTE = 2**20


def test_every_hostile_request_is_answered_and_the_next_good_one_is_right(models: Path) -> None:
    cases = list(corpus(seed=7))
    with process("--models", models, DRD_DECODE_SECONDS="2") as service:
        send(service, cases[: len(cases) // 4])
        before = taken(service.popen.pid)
        statuses = send(service, cases)
        after = taken(service.popen.pid)
        assert service.popen.poll() is None
        outcomes = Counter(line["outcome"] for line in service.log() if "outcome" in line)

    assert len(cases) >= MIN_CASES
    assert statuses[200] > 500, "the corpus has become too wild to get behind the door"
    assert statuses[400] > 1000
    assert {413, 415, 422} <= statuses.keys()
    assert not outcomes["failed"]
    assert after.resident < before.resident + 200 * MEBIBYTE, (before, after)
    assert after.files <= before.files + CALLERS
    assert after.threads <= before.threads + 1
    assert after.processes <= before.processes + 1


def send(service: Process, cases: list[Case]) -> Counter[int]:
    """All of them from several callers at once; how they were answered."""
    statuses = Counter[int]()
    every = iter(enumerate(cases))
    taking = threading.Lock()

    def mine() -> Iterator[tuple[int, Case]]:
        while True:
            with taking:
                one = next(every, None)
            if one is None:
                return
            yield one

    with ThreadPoolExecutor(CALLERS) as callers:
        for statuses_of_one in callers.map(lambda _: caller(service.url, mine()), range(CALLERS)):
            statuses += statuses_of_one
    return statuses


def caller(url: str, cases: Iterable[tuple[int, Case]]) -> Counter[int]:
    statuses = Counter[int]()
    with httpx.Client(base_url=url, timeout=120) as http:
        for number, case in cases:
            statuses[ask(http, case)] += 1
            if number % 20 == 0:
                good(http, level=1 + number % 250)
    return statuses


def ask(http: httpx.Client, case: Case) -> int:
    """200, or a problem document of the caller's fault; anything else fails, by the case's name."""
    headers = {"Content-Type": case.content_type}
    try:
        answer = http.post("/v1/inspect?product=tile", content=case.body, headers=headers)
    except httpx.HTTPError as error:
        pytest.fail(f"{case.name}: {error!r}")
    if answer.status_code == 200:
        assert answer.json()["verdict"] in ("OK", "NG", "REVIEW"), case.name
    else:
        assert 400 <= answer.status_code < 500, f"{case.name}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json", case.name
        assert answer.json()["status"] == answer.status_code, case.name
    return answer.status_code


def good(http: httpx.Client, level: int) -> None:
    answer = http.post("/v1/inspect?product=tile&include=", content=plain(level)).json()
    assert answer["raw_score"] == pytest.approx(level / 255, abs=1e-5)


def test_a_worker_that_aborts_or_loops_is_the_images_affair(tmp_path: Path) -> None:
    """Faults that no known image brings about: made in the worker's process, when it opens one."""
    make_bundle(tmp_path / "models")
    (tmp_path / "sitecustomize.py").write_text(_FAULTY)
    path = f"{tmp_path}:{Path.cwd()}"
    settings = {"DRD_DECODE_SECONDS": "1", "DRD_DECODE_BYTES": str(200 * MEBIBYTE), "DRD_WORKERS": "2"}
    with process("--models", tmp_path / "models", PYTHONPATH=path, **settings) as service:
        with httpx.Client(base_url=f"{service.url}", timeout=60) as http:
            faults = {"aborts": 400, "stumbles": 400, "loops": 413, "grows": 413}
            for _ in range(3):
                for fault, status in faults.items():
                    body = plain(9) + fault.encode()
                    answer = http.post("/v1/inspect?product=tile", content=body)
                    assert (answer.status_code, fault) == (status, fault), answer.text
                    good(http, level=99)
        wait_until(lambda: taken(service.popen.pid).processes <= 4)
        assert service.popen.poll() is None


_FAULTY = """
import os, sys
if "service.workers.forkserver" in sys.orig_argv:
    from PIL import Image
    whole = Image.open
    def faulty(source, *given, **options):
        body = source.getbuffer()
        if body[-6:] == b"aborts":
            os.abort()
        if body[-8:] == b"stumbles":
            os.kill(os.getpid(), 11)
        while body[-5:] == b"loops":
            pass
        if body[-5:] == b"grows":
            bytearray(2**30)
        return whole(source, *given, **options)
    Image.open = faulty
"""
