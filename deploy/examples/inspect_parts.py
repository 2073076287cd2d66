"""Inspects a stream of parts in Python, with a decision for each within the takt.

    python inspect_parts.py grpc://127.0.0.1:8081 gasket pictures/*.png

Needs this repository's extra `client`. In your program, replace `camera` by your source of pictures.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from service.client import Client, ClientError, Frame

TAKT = float(os.environ.get("DRD_DEADLINE_MS", "200")) / 1000
"""Seconds from a picture to the gate."""


def camera(product: str, names: list[str]) -> Iterator[Frame]:
    """Yields a frame per picture, with the part's name as frame id and the takt from now."""
    for name in names:
        now = time.monotonic()
        yield Frame(Path(name).read_bytes(), product, frame_id=Path(name).stem, deadline=TAKT, since=now)


def main(address: str, product: str, *names: str) -> None:
    with Client(address, token=os.environ.get("DRD_TOKEN")) as drd:
        for outcome in drd.stream(camera(product, list(names)), window=2):
            part, answer = outcome.frame.frame_id, outcome.answer
            if answer is None:  # refused, late, unreachable …: the part is ejected, never passed
                print(f"{part}: eject, not inspected: {outcome.error}")
            elif outcome.frame.since is None or time.monotonic() > outcome.frame.since + TAKT:
                print(f"{part}: eject, the answer waited here while an earlier part was handled")
            elif answer.verdict == "OK":
                print(f"{part}: pass, {answer.score:.2f} in {1000 * outcome.seconds:.0f} ms")
            else:
                why = answer.reason or "over the threshold"
                print(f"{part}: eject, {answer.verdict} {answer.score:.2f}, {why}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (ClientError, OSError, ValueError) as error:
        sys.exit(f"inspect_parts: {error}")
