"""For tests that compute as users do, on all cores; the others leave it to one thread (conftest.py)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_all_cores() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
