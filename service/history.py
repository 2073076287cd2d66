"""The newest verdicts, kept in memory for the operator page. No answer waits for it.

Numbers are kept for the last `MAX_RECORDS` verdicts; images are large, so the oldest are dropped when all
together exceed `max_bytes`. Runs on the event loop only.
"""

import asyncio
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from service.errors import Busy, NotFound
from service.record import Record
from service.values import SentImage

MAX_RECORDS = 2000
MAX_WATCHERS = 32
NOT_INSPECTED = "NOT_INSPECTED"
"""Counted for an image that was refused, late, failed or given up by its caller: its part is unknown."""
Sees = Callable[[str], bool]
"""Whether a viewer may see the verdicts of a product."""
_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


class History:
    """With `max_bytes` 0, verdicts are counted but not kept."""

    def __init__(self, max_bytes: int) -> None:
        self.id = secrets.token_hex(4)
        """Differs after every start, so that an old record id never finds a new record."""
        self.counts = dict[str, Counter[str]]()
        """Per product: how often each verdict was given since the start, NOT_INSPECTED included."""
        self.image_bytes = 0
        self.newest = 0
        """The number of the newest record."""
        self.watchers = 0
        """Pages that are open."""
        self.closed = False
        self._max_bytes = max_bytes
        self._records = deque[Record]()
        self._with_image = deque[Record]()
        self._news = asyncio.Event()

    def add(self, record: Record) -> None:
        """Keeps a verdict that was given."""
        if self._max_bytes:
            self._keep(record)
        self.count(record.result.product, record.result.finding.verdict)

    def count(self, product: str, what: str) -> None:
        """Counts a verdict, or NOT_INSPECTED."""
        self.counts.setdefault(product, Counter())[what] += 1
        if self.watchers:
            self._notify()

    def close(self) -> None:
        """Ends the streams of all watchers."""
        self.closed = True
        self._notify()

    def watch(self) -> AbstractContextManager[None]:
        """A context manager for one open page, which then awaits `news`; Busy if `MAX_WATCHERS` are open.

        They are counted on entering, when the response begins: pages that connect at the same moment may
        exceed the limit by a few.
        """
        if self.watchers >= MAX_WATCHERS:
            raise Busy(f"{MAX_WATCHERS} pages are open already", reason="watchers", retry_after=5)
        return self._watching()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    async def news(self) -> None:
        """Returns when anything was added, counted or closed since the call."""
        await self._news.wait()

    def latest(self, sees: Sees, limit: int, after: int = 0) -> list[Record]:
        """At most `limit` records with a number above `after`, newest first."""
        found = list[Record]()
        for record in reversed(self._records):
            if record.number <= after or len(found) == limit:
                break
            if sees(record.result.product):
                found.append(record)
        return found

    def get(self, record_id: str, sees: Sees) -> Record:
        """The record of that id; NotFound when it was dropped, never existed or may not be seen."""
        number = self.number(record_id)
        first = self._records[0].number if self._records else 1
        if first <= number <= self.newest:
            record = self._records[number - first]
            if sees(record.result.product):
                return record
        raise NotFound(f"verdict {record_id[:40]!r} is not kept")

    def image(self, record_id: str, sees: Sees) -> SentImage:
        """The record's image; NotFound also when it was dropped for newer ones."""
        image = self.get(record_id, sees).image
        if image is None:
            raise NotFound(f"the images of verdict {record_id!r} are not kept any more")
        return image

    def counts_of(self, sees: Sees) -> dict[str, Counter[str]]:
        return {product: counts for product, counts in self.counts.items() if sees(product)}

    def number(self, record_id: str) -> int:
        """The number in a record's id; 0 when it is not one of this history's."""
        match = _ID.fullmatch(record_id)
        return int(match[2]) if match and match[1] == self.id else 0

    def _keep(self, record: Record) -> None:
        assert record.image is not None
        self.newest += 1
        record.number = self.newest
        self._records.append(record)
        self._with_image.append(record)
        self.image_bytes += record.image.nbytes
        while self.image_bytes > self._max_bytes:
            self._forget_image()
        if len(self._records) > MAX_RECORDS and self._records.popleft().image is not None:
            self._forget_image()

    def _forget_image(self) -> None:
        record = self._with_image.popleft()
        assert record.image is not None
        self.image_bytes -= record.image.nbytes
        record.image = None

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
