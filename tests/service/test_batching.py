"""The queue keeps its guarantees under any sequence of operations."""

from collections.abc import Sequence
from weakref import WeakSet

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.batching import BatchQueue, DeadlineQueue, Entry

SIZES = (1, 2, 4, 8)


class Item:
    """Unlike a number, it can be seen whether it is still referred to."""


class AnyHistory(RuleBasedStateMachine):
    """Compares the queue with a plain list of its expected entries."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BatchQueue[int](SIZES)
        self.inside = dict[int, Entry[int]]()
        self.left = dict[int, Entry[int]]()
        self.offered = 0
        self.now = 0.0

    @rule(wait=st.integers(0, 20), deadline=st.booleans())
    def offer(self, wait: int, deadline: bool) -> None:
        self.offered += 1
        order = self.now + wait
        entry = self.queue.offer(self.offered, order=order, expires=order if deadline else None)
        self.inside[self.offered] = entry

    @rule(seconds=st.integers(1, 10))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.inside:
            item = data.draw(st.sampled_from(sorted(self.inside)))
            entry = self.left[item] = self.inside.pop(item)
            assert self.queue.withdraw(entry)

    @rule(data=st.data())
    def withdraw_too_late(self, data: st.DataObject) -> None:
        if self.left:
            assert not self.queue.withdraw(self.left[data.draw(st.sampled_from(sorted(self.left)))])

    @rule()
    def take(self) -> None:
        ranked = sorted(self.inside.values(), key=lambda entry: (entry.order, entry.number))
        alive = [entry.item for entry in ranked if entry.expires is None or entry.expires > self.now]

        taken = self.queue.take(self.now)

        size = max((size for size in SIZES if size <= len(alive)), default=0)
        assert taken.batch == alive[:size]
        for item in taken.expired:
            expires = self.inside[item].expires
            assert expires is not None
            assert expires <= self.now
        for item in taken.batch + taken.expired:
            self.left[item] = self.inside.pop(item)

    @invariant()
    def knows_what_is_in_it(self) -> None:
        assert len(self.queue) == len(self.inside)
        assert self.queue.head() == min((entry.order for entry in self.inside.values()), default=None)


test_any_history = AnyHistory.TestCase


@pytest.mark.parametrize(("waiting", "expected"), [(1, [1]), (3, [2, 1]), (7, [4, 2, 1]), (21, [8, 8, 4, 1])])
def test_only_allowed_batch_sizes_are_formed(waiting: int, expected: Sequence[int]) -> None:
    queue = BatchQueue[int](SIZES)
    for item in range(waiting):
        queue.offer(item, order=0)

    batches = list(iter(lambda: queue.take(0).batch, []))

    assert [len(batch) for batch in batches] == expected
    assert [item for batch in batches for item in batch] == list(range(waiting))


def test_popping_takes_one_after_the_other() -> None:
    queue = DeadlineQueue[str]()
    first, *_ = (queue.offer(item, order=order) for item, order in (("1", 1), ("3", 3), ("2", 2), ("4", 3)))
    queue.withdraw(first)

    assert [queue.pop() for _ in range(len(queue))] == ["2", "3", "4"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_what_was_popped_cannot_be_withdrawn() -> None:
    queue = DeadlineQueue[str]()
    first, _ = (queue.offer(item, order=0) for item in ("1", "2"))
    queue.pop()

    assert not queue.withdraw(first)
    assert len(queue) == 1


@given(orders=st.permutations(range(60)), kept=st.sets(st.integers(0, 59), min_size=1, max_size=20))
def test_those_left_keep_their_order_when_many_are_withdrawn(orders: list[int], kept: set[int]) -> None:
    queue = DeadlineQueue[int]()
    entries = [queue.offer(order, order=order) for order in orders]
    for entry in entries:
        if entry.item not in kept:
            queue.withdraw(entry)

    assert [queue.pop() for _ in range(len(queue))] == sorted(kept)


def test_an_engine_without_batch_size_one_is_refused() -> None:
    with pytest.raises(ValueError, match="lone frame"):
        BatchQueue[int]((2, 4))


def test_withdrawn_entries_do_not_pile_up() -> None:
    queue = BatchQueue[Item](SIZES)
    queue.offer(Item(), order=0)
    kept = WeakSet[Item]()
    for _ in range(1000):
        kept.add(item := Item())
        queue.withdraw(queue.offer(item, order=1))

    assert len(kept) < 20
