"""A job for a worker: what it is asked, what it may answer, and how either of them may fail."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from export.bundle import FrameFailed
from service.channel import Bytes, Head
from service.errors import InspectionFailed, ServiceError, TooLarge, UnlikeDeclared, UnreadableImage
from service.settle import settle

Made = TypeVar("Made")
_FAILURES: dict[str, type[Exception]] = {
    failure.__name__: failure
    for failure in (FrameFailed, InspectionFailed, TooLarge, UnlikeDeclared, UnreadableImage)
}


@dataclass(frozen=True, slots=True)
class Done(Generic[Made]):
    """What a worker made. `seconds` run from handing over the job to the answer; of these, the worker says to
    have `spent` so many on each step."""

    made: Made
    spent: tuple[float, ...]
    seconds: float


@dataclass(slots=True, eq=False)
class Job(Generic[Made]):
    """`understand` makes of head and payload what was asked for; it raises anything if they are no answer."""

    order: float
    head: Head
    payload: Sequence[Bytes]
    understand: Callable[[Head, memoryview], Made]
    decodes: bool
    """Whether it opens an image: what goes wrong is the image's fault then."""
    answer: asyncio.Future[Done[Made]]
    again: bool = False
    """A worker has ended over it already."""

    def settle(self, outcome: Done[Made] | Exception) -> None:
        settle(self.answer, outcome)

    def outcome(self, head: Head, payload: memoryview, seconds: float) -> Done[Made] | Exception:
        """What the worker answers, or the failure it names; raises anything if that is no answer."""
        if "error" in head:
            return _FAILURES[head["error"]](str(head["detail"]))
        spent = tuple(map(float, head["spent"]))
        if not (all(step >= 0 for step in spent) and sum(spent) <= seconds):
            raise ValueError(f"{spent} s within {seconds} s")
        return Done(self.understand(head, payload), spent, seconds)

    def failure(self, limit: float, *, too_long: bool) -> ServiceError:
        """What it means that a worker has ended over it: after its time `limit`, or before."""
        if not self.decodes:
            return InspectionFailed("the service failed on this frame")
        if too_long:
            return TooLarge(f"decoding the image takes more than {limit:g} s")
        return UnreadableImage("the image is damaged: its decoder ended")
