"""Queues ordered by deadline, as plain data: no clock, thread or lock of their own.

Their length is limited before, at admission.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True, order=True)
class Entry(Generic[Item]):
    """A place in a queue. `order` and `expires` are instants of the clock that `take` is given."""

    order: float
    number: int
    item: Item = field(compare=False)
    expires: float | None = field(compare=False)
    queued: bool = field(compare=False, default=True)


@dataclass(frozen=True, slots=True)
class Taken(Generic[Item]):
    """`batch` has an allowed size or is empty; `expired` entries were too late and are not in it."""

    batch: list[Item]
    expired: list[Item]


class DeadlineQueue(Generic[Item]):
    """Entries in order of deadline, then arrival."""

    def __init__(self) -> None:
        self._heap: list[Entry[Item]] = []
        self._arrivals = 0
        self._queued = 0

    def __len__(self) -> int:
        return self._queued

    def offer(self, item: Item, *, order: float, expires: float | None = None) -> Entry[Item]:
        """Queues `item` behind all entries of an earlier or equal `order`.

        `expires` is for `BatchQueue.take`, which drops entries that are late.
        """
        self._arrivals += 1
        entry = Entry(order, self._arrivals, item, expires)
        heapq.heappush(self._heap, entry)
        self._queued += 1
        return entry

    def withdraw(self, entry: Entry[Item]) -> bool:
        """Removes `entry` from the queue; False when it has left it already."""
        if not entry.queued:
            return False
        self._leave(entry)
        if len(self._heap) > 2 * self._queued + 8:  # withdrawn entries stay in the heap until now
            self._heap = [entry for entry in self._heap if entry.queued]
            heapq.heapify(self._heap)
        return True

    def head(self) -> float | None:
        """The earliest `order` in the queue; None when it is empty."""
        while self._heap and not self._heap[0].queued:
            heapq.heappop(self._heap)
        return self._heap[0].order if self._heap else None

    def pop(self) -> Item:
        """The item that is first in order; IndexError when the queue is empty."""
        self.head()  # drops withdrawn entries before it
        entry = heapq.heappop(self._heap)
        self._leave(entry)
        return entry.item

    def _leave(self, entry: Entry[Item]) -> None:
        entry.queued = False
        self._queued -= 1


class BatchQueue(DeadlineQueue[Item]):
    """Popped in batches of the allowed sizes, without what has expired."""

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        super().__init__()
        if 1 not in batch_sizes:
            raise ValueError(f"batch sizes {tuple(batch_sizes)}: a lone frame would wait for ever")
        self._sizes = sorted(batch_sizes, reverse=True)

    def take(self, now: float) -> Taken[Item]:
        """Pops the largest allowed batch, and drops expired entries ahead of it."""
        alive, expired = list[Entry[Item]](), list[Item]()
        while len(alive) < self._sizes[0] and self.head() is not None:
            entry = heapq.heappop(self._heap)
            if entry.expires is not None and entry.expires <= now:
                self._leave(entry)
                expired.append(entry.item)
            else:
                alive.append(entry)
        size = next((size for size in self._sizes if size <= len(alive)), 0)
        for entry in alive[size:]:
            heapq.heappush(self._heap, entry)
        for entry in alive[:size]:
            self._leave(entry)
        return Taken([entry.item for entry in alive[:size]], expired)
