"""Jobs for workers, the most urgent first. All of it on the event loop: no thread, no lock."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.batching import BatchQueue
from service.channel import Bytes, Channel, DoesNotFit, Head
from service.errors import NotServing, TooLarge
from service.job import Done, Job, Made

_PATIENCE = 20  # times its CPU time: a worker that waits this long for a core has been forgotten
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Worker:
    channel: Channel
    job: Job[Any] | None = None
    since: float = 0.0
    forgotten: asyncio.TimerHandle | None = None


class Pool:
    """At most `count` workers, each made by `start` when it is first needed.

    A worker may take `seconds` of CPU time for an image. A job on which a worker ends gets a second one, made
    for it: a job before may have left the first one damaged.
    """

    def __init__(self, count: int, seconds: float, start: Callable[[], Channel]) -> None:
        self._seconds, self._start = seconds, start
        self._missing = count
        self._workers = set[_Worker]()
        self._idle = list[_Worker]()
        self._waiting = BatchQueue[Job[Any]]((1,))
        self._starting = set[asyncio.Task[None]]()

    async def start(self) -> None:
        """Returns when every worker waits for a job; NotServing when there can't be one."""
        while self._missing:
            self._missing -= 1
            self._add(await self._new())

    async def ask(
        self,
        order: float,
        head: Head,
        payload: Sequence[Bytes],
        understand: Callable[[Head, memoryview], Made],
        *,
        decodes: bool,
    ) -> Done[Made]:
        """The answer, or the failure it names. Cancelled, a job that waits is dropped at once."""
        answer: asyncio.Future[Done[Made]] = asyncio.get_running_loop().create_future()
        job = Job(head, payload, understand, decodes, answer)
        entry = self._waiting.offer(job, order=order)
        self._assign()
        try:
            return await answer
        finally:
            self._waiting.withdraw(entry)
            job.payload = ()

    async def close(self) -> None:
        """Ends the workers. Whoever still waits for one is told so."""
        while self._waiting:
            self._waiting.take(0).batch[0].settle(_ending())
        await asyncio.gather(*self._starting)
        for worker in list(self._workers):
            if worker.job is not None:
                worker.job.settle(_ending())
            self._remove(worker)

    def _assign(self) -> None:
        while self._waiting and (self._idle or self._missing):
            (job,) = self._waiting.take(0).batch
            if self._idle:
                self._give(self._idle.pop(), job)
            else:
                self._missing -= 1
                self._give_new(job)

    def _give(self, worker: _Worker, job: Job[Any]) -> None:
        worker.job, worker.since = job, time.monotonic()
        patience = _PATIENCE * self._seconds
        worker.forgotten = asyncio.get_running_loop().call_later(patience, self._ended, worker)
        try:
            worker.channel.send(job.head, job.payload)
        except DoesNotFit:
            job.settle(TooLarge("the image is larger than there is room for"))
            self._free(worker)
        except OSError:
            self._ended(worker)

    def _give_new(self, job: Job[Any]) -> None:
        """Has a worker made for `job`."""
        starting = asyncio.create_task(self._start_for(job))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def _start_for(self, job: Job[Any]) -> None:
        try:
            worker = await self._new()
        except Exception as error:  # whoever asked hears of it
            _logger.exception("there is no worker")
            job.settle(error)
            self._assign()
        else:
            self._add(worker, job)

    async def _new(self) -> _Worker:
        try:
            return _Worker(await asyncio.to_thread(self._start))
        except BaseException:
            self._missing += 1
            raise

    def _add(self, worker: _Worker, job: Job[Any] | None = None) -> None:
        self._workers.add(worker)
        asyncio.get_running_loop().add_reader(worker.channel.fileno(), self._hear, worker)
        if job is None or job.answer.done():
            self._free(worker)
        else:
            self._give(worker, job)

    def _hear(self, worker: _Worker) -> None:
        """There is an answer, or the worker has ended."""
        job = worker.job
        try:
            head, payload = worker.channel.receive()
            if job is None:
                raise EOFError  # nobody has asked it anything
            if not job.answer.done():
                job.settle(job.outcome(head, payload, time.monotonic() - worker.since))
            worker.channel.give_back()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._ended(worker)
        except Exception:  # the boundary to a process that may have been taken over
            _logger.warning("a worker's answer is none", exc_info=True)
            self._ended(worker)
        else:
            self._free(worker)

    def _free(self, worker: _Worker) -> None:
        worker.job = None
        if worker.forgotten is not None:
            worker.forgotten.cancel()
        self._idle.append(worker)
        self._assign()

    def _ended(self, worker: _Worker) -> None:
        """It has ended, perhaps over its job; or it is given up, and then ends by its time limit."""
        self._remove(worker)
        job = worker.job
        if job is not None:
            _logger.warning("a worker ended over a frame")
        too_long = time.monotonic() - worker.since >= self._seconds
        if job is None or job.answer.done() or job.again or too_long:
            if job is not None:
                job.settle(job.failure(self._seconds, too_long=too_long))
            self._missing += 1
            self._assign()
        else:
            job.again = True
            self._give_new(job)

    def _remove(self, worker: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.channel.fileno())
        worker.channel.close()
        self._workers.remove(worker)
        if worker.forgotten is not None:
            worker.forgotten.cancel()
        if worker in self._idle:
            self._idle.remove(worker)


def _ending() -> NotServing:
    return NotServing("the service is ending", reason="draining", retry_after=1)
