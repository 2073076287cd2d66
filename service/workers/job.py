"""A job for a worker: its request, its answer, and how either can fail."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from export.bundle import FrameFailed
from service.errors import BadImage, InspectionFailed, ServiceError, TooLarge, UnlikeDeclared
from service.threads import settle
from service.workers.channel import Bytes, Head

Made = TypeVar("Made")
_FAILURES: dict[str, type[Exception]] = {
    failure.__name__: failure
    for failure in (BadImage, FrameFailed, InspectionFailed, TooLarge, UnlikeDeclared)
}


@dataclass(frozen=True, slots=True)
class Done(Generic[Made]):
    """What a worker made. `spent` are the seconds of each step, as the worker reports them."""

    made: Made
    spent: tuple[float, ...]


@dataclass(slots=True, eq=False)
class Job(Generic[Made]):
    """`parse` converts head and payload into the result, raising any exception if they are invalid."""

    order: float
    head: Head
    payload: Sequence[Bytes]
    parse: Callable[[Head, memoryview], Made]
    decodes: bool
    """Whether it opens an image: a failure is then blamed on the image."""
    answer: asyncio.Future[Done[Made]]
    learn: Callable[[float], object]
    """Called with the seconds from handing over to the answer, even if nobody waits for it."""
    repeated: bool = False
    """Whether a worker has died on it already."""

    def settle(self, outcome: Done[Made] | Exception) -> None:
        settle(self.answer, outcome)

    def outcome(self, head: Head, payload: memoryview, seconds: float) -> Done[Made] | Exception:
        """The worker's result, or the failure it reports; raises any exception if the answer is invalid."""
        if "error" in head:
            return _FAILURES[head["error"]](str(head["detail"]))
        spent = tuple(map(float, head["spent"]))
        if not (all(step >= 0 for step in spent) and sum(spent) <= seconds):
            raise ValueError(f"{spent} s within {seconds} s")
        return Done(self.parse(head, payload), spent)

    def failure(self, limit: float, *, too_long: bool, killed: bool) -> ServiceError:
        """The error when a worker has died on this job: after its time `limit` in seconds, or before; or was
        killed from outside, which is not the image's fault."""
        if killed:
            return InspectionFailed("the worker of this frame was killed, perhaps for want of memory")
        if not self.decodes:
            return InspectionFailed("the service failed on this frame")
        if too_long:
            return TooLarge(f"decoding the image takes more than {limit:g} s")
        return BadImage("the image is damaged: its decoder crashed")
