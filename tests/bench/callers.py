"""`python -m tests.bench.callers [REQUESTS]`: is every answer its caller's own, in 100,000 requests?

Forty callers, five products; random cancels, failing frames and budgets too short. Ends with an error if not.
"""

import argparse
import asyncio
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.service.inspecting import ask_at_random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", type=int, nargs="?", default=100_000)
    given = parser.parse_args()
    logging.disable()  # thousands of frames fail on purpose
    started = time.monotonic()
    with TemporaryDirectory() as models:
        ends = asyncio.run(ask_at_random(Path(models), given.requests))
    print(f"{ends.total()} requests in {time.monotonic() - started:.0f} s: every answer its caller's own")
    for end, count in ends.most_common():
        print(f"  {end:9} {count}")


if __name__ == "__main__":
    main()
