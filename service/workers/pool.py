"""Gives jobs to workers, the most urgent first. Runs on the event loop only: no lock."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGPROF
from typing import Any

from service.batching import DeadlineQueue
from service.errors import NotServing, TooLarge, shutting_down
from service.threads import run_in_daemon_thread
from service.workers.channel import Bytes, Channel, DoesNotFit, Ended, Head
from service.workers.job import Done, Job, Made

_MAX_WALL_TIME = 20  # times its CPU time limit: a worker that takes this long is given up
_ABANDONED_SECONDS = 0.05  # about what ending a worker and starting another costs
_TOLD_SECONDS = 0.5  # for the fork server to tell what has ended a worker
_PAUSE_SECONDS = 1.0  # after a failed start, while there are other workers
_LAST_START_SECONDS = 1.0  # for workers that are being started when the service ends
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Worker:
    channel: Channel
    job: Job[Any] | None = None
    nonce: str = ""
    """The current job's, unguessable: a compromised worker can't answer a job before it has been given it. It
    can still answer wrongly afterwards."""
    since: float = 0.0
    timeout: asyncio.TimerHandle | None = None


class Pool:
    """At most `count` workers, each made by `start` when it is first needed.

    A worker may take `seconds` of CPU time for an image. A job on which a worker dies is repeated once on a
    new worker, as an earlier job may have damaged the first one.
    """

    def __init__(self, count: int, seconds: float, start: Callable[[], Channel]) -> None:
        self._seconds, self._start = seconds, start
        self._missing = count
        self._workers = set[_Worker]()
        self._idle = list[_Worker]()
        self._waiting = DeadlineQueue[Job[Any]]()
        self._to_repeat = list[Job[Any]]()
        """Jobs that wait for a new worker."""
        self._starting = set[asyncio.Task[None]]()
        self._pausing = False
        self._closed = False

    async def start(self) -> None:
        """Starts all workers; NotServing when one can't be started."""
        while self._missing:
            self._missing -= 1
            try:
                self._add(await run_in_daemon_thread(self._start))
            except (EOFError, OSError) as error:
                raise _no_worker(f" ({error})") from error

    async def ask(
        self,
        order: float,
        head: Head,
        payload: Sequence[Bytes],
        parse: Callable[[Head, memoryview], Made],
        *,
        decodes: bool,
        learn: Callable[[float], object],
    ) -> Done[Made]:
        """The worker's result; raises the failure it reports. Cancelling drops a waiting job at once; one
        that has begun gets a moment to finish, then its worker is ended."""
        if self._closed:
            raise shutting_down()
        answer: asyncio.Future[Done[Made]] = asyncio.get_running_loop().create_future()
        job = Job(order, head, payload, parse, decodes, answer, learn)
        entry = self._waiting.offer(job, order=order)
        self._assign()
        try:
            return await answer
        finally:
            self._waiting.withdraw(entry)
            job.payload = ()
            if answer.cancelled():
                asyncio.get_running_loop().call_later(_ABANDONED_SECONDS, self._abandon, job)

    async def close(self) -> None:
        """Ends the workers. Jobs that still wait fail with NotServing."""
        self._closed = True
        self._refuse(shutting_down)
        for worker in list(self._workers):
            if worker.job is not None:
                worker.job.settle(shutting_down())
            self._remove(worker)
        if self._starting:  # a fork server that hangs would hold them for a minute
            await asyncio.wait(self._starting, timeout=_LAST_START_SECONDS)

    def _assign(self) -> None:
        """Gives jobs to idle workers, and starts a worker for each job left, up to the limit."""
        while self._waiting and self._idle:
            job = self._waiting.pop()
            if not job.answer.done():
                self._give(self._idle.pop(), job)
        needed = len(self._waiting) + len(self._to_repeat) - len(self._starting)
        if not self._pausing:
            for _ in range(min(self._missing, needed)):
                self._missing -= 1
                self._starting.add(asyncio.create_task(self._start_one()))

    def _abandon(self, job: Job[Any]) -> None:
        """Ends the worker that is still at it: admission does not know of the job any more, and the jobs of
        others would wait for it."""
        worker = next((worker for worker in self._workers if worker.job is job), None)
        if worker is not None:
            job.learn(time.monotonic() - worker.since)
            self._remove(worker)
            self._assign()

    def _give(self, worker: _Worker, job: Job[Any]) -> None:
        worker.job, worker.since, worker.nonce = job, time.monotonic(), secrets.token_hex(8)
        limit = _MAX_WALL_TIME * self._seconds
        worker.timeout = asyncio.get_running_loop().call_later(limit, self._ended, worker)
        try:
            worker.channel.send(job.head | {"nonce": worker.nonce}, job.payload)
        except DoesNotFit:
            job.settle(TooLarge("the image is larger than there is room for"))
            self._free(worker)
        except OSError:
            self._ended(worker)

    async def _start_one(self) -> None:
        try:
            channel = await run_in_daemon_thread(self._start)
        except Exception:  # whatever it is, this worker is missing
            _logger.exception("a worker could not be started")
            self._missing += 1
            self._started()
            self._go_on_without()
        else:
            self._started()
            self._add(channel)

    def _started(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._starting.discard(task)

    def _go_on_without(self) -> None:
        """After a failed start: the other workers take the jobs; without any, waiting jobs are refused."""
        if self._workers:
            for job in self._to_repeat:
                self._waiting.offer(job, order=job.order)
            self._to_repeat.clear()
            self._pausing = True
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._resume)
            self._assign()
        elif not self._starting:
            self._refuse(_no_worker)

    def _resume(self) -> None:
        self._pausing = False
        if not self._closed:
            self._assign()

    def _refuse(self, error: Callable[[], NotServing]) -> None:
        """Fails all waiting jobs."""
        while self._waiting:
            self._waiting.pop().settle(error())
        for job in self._to_repeat:
            job.settle(error())
        self._to_repeat.clear()

    def _add(self, channel: Channel) -> None:
        if self._closed:
            channel.close()
            return
        worker = _Worker(channel)
        self._workers.add(worker)
        loop = asyncio.get_running_loop()
        loop.add_reader(channel.fileno(), self._hear, worker)
        if channel.process is not None:
            loop.add_reader(channel.process, self._gone, worker)
        self._to_repeat = [job for job in self._to_repeat if not job.answer.done()]
        if self._to_repeat:
            self._give(worker, self._to_repeat.pop(0))
        else:
            self._idle.append(worker)
        self._assign()

    def _hear(self, worker: _Worker) -> None:
        """Receives an answer, or learns that the worker has died."""
        job = worker.job
        try:
            head, payload = worker.channel.receive()
            if job is None or head.get("nonce") != worker.nonce:
                raise EOFError  # not the answer to its current job
            seconds = time.monotonic() - worker.since
            outcome = job.outcome(head, payload, seconds)
            if isinstance(outcome, Done):
                job.learn(seconds)
            job.settle(outcome)
            worker.channel.give_back()
        except BlockingIOError:
            return
        except Ended as end:
            self._ended(worker, signal=end.signal)
        except (EOFError, OSError):
            self._ended(worker)
        except Exception:  # a compromised worker may send anything
            _logger.warning("a worker's answer is invalid", exc_info=True)
            self._ended(worker)
        else:
            self._free(worker)
            self._assign()

    def _gone(self, worker: _Worker) -> None:
        """The worker's process has ended. The channel tells why, unless the fork server hangs."""
        loop = asyncio.get_running_loop()
        assert worker.channel.process is not None
        loop.remove_reader(worker.channel.process)
        loop.call_later(_TOLD_SECONDS, self._ended, worker)

    def _free(self, worker: _Worker) -> None:
        worker.job = None
        if worker.timeout is not None:
            worker.timeout.cancel()
        self._idle.append(worker)

    def _ended(self, worker: _Worker, *, signal: int = 0) -> None:
        """The worker has died, of `signal` if that is known, or is killed by closing its channel. Its job is
        repeated or fails."""
        if worker not in self._workers:
            return
        self._remove(worker)
        job = worker.job
        if job is not None:
            _logger.warning("a worker died while working on a frame")
            took = time.monotonic() - worker.since
            too_long = signal == SIGPROF or (not signal and took >= self._seconds)
            if job.repeated or too_long:
                job.settle(job.failure(self._seconds, too_long=too_long, killed=signal == SIGKILL))
            elif not job.answer.done():
                job.repeated = True
                self._to_repeat.append(job)
        self._assign()

    def _remove(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.channel.fileno())
        if worker.channel.process is not None:
            loop.remove_reader(worker.channel.process)
        worker.channel.close()
        self._workers.remove(worker)
        self._missing += 1
        if worker.timeout is not None:
            worker.timeout.cancel()
        if worker in self._idle:
            self._idle.remove(worker)


def _no_worker(why: str = "") -> NotServing:
    return NotServing(f"no worker can be started{why}", reason="worker", retry_after=1)
