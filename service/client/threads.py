"""Work that may block for as long as it likes."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def in_own_thread(work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """What `work` returns or raises. As `asyncio.to_thread`, which has a few threads for all: cameras that
    wait, and services that hang, would keep them. Cancelled, it leaves the thread to itself."""
    alone = anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True, limiter=alone)
