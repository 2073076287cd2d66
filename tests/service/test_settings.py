import os
from pathlib import Path

import pytest

from service import settings
from service.settings import Settings, unknown_variables


@pytest.mark.parametrize(("quota", "workers"), [(2, 3), (16, 9), (None, 9)])
def test_there_is_a_worker_for_each_core_that_may_be_used_and_one_more(
    monkeypatch: pytest.MonkeyPatch, quota: int | None, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(settings, "cores_allowed", lambda: quota)
    assert Settings(models=Path()).workers == workers


def test_what_looks_like_a_setting_and_is_none_is_found() -> None:
    assert unknown_variables(["DRD_HTTP", "drd_takt_ms", "DRD_TAKT", "drd_htp", "PATH"]) == [
        "DRD_TAKT",
        "drd_htp",
    ]
