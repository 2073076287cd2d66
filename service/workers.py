"""A bounded pool of threads for what a frame costs outside the engine. The most urgent job goes first."""

import heapq
import logging
import threading
from collections.abc import Callable
from itertools import count

Job = Callable[[], None]
_logger = logging.getLogger(__name__)


class Workers:
    """`submit` never blocks: how many jobs there can be is bounded at admission."""

    def __init__(self, threads: int) -> None:
        self._jobs: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"worker-{i}") for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._threads)

    def submit(self, order: float, job: Job) -> None:
        """Runs `job` when no job of lower `order` waits."""
        with self._changed:
            heapq.heappush(self._jobs, (order, next(self._numbers), job))
            self._changed.notify()

    def close(self) -> None:
        """Returns when all jobs have been run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # a job answers for its own failures; should one not, its worker lives on
                _logger.exception("a job failed")

    def _next(self) -> Job | None:
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            return heapq.heappop(self._jobs)[2]
