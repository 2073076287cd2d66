"""Asynchronous tests."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import uvloop

Given = ParamSpec("Given")


def on_a_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    """Runs a test on an event loop like the service's; it has two minutes."""

    @wraps(test)
    def run(*arguments: Given.args, **fixtures: Given.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*arguments, **fixtures), 120))

    return run
