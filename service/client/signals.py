"""The end of a program by SIGINT (Ctrl-C) or SIGTERM, in order."""

import asyncio
import signal
import sys
from collections.abc import Callable


def on_termination(stop: Callable[[], object]) -> None:
    """Has the running event loop call `stop` at either signal, even if the program was started with it
    ignored, as scripts do. On Windows a loop may notice it only when it wakes for something else."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":  # which has no add_signal_handler
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        else:
            loop.add_signal_handler(number, stop)
