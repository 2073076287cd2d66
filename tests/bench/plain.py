"""The yardstick: an endpoint as one writes it in an hour, around the same work. It knows no queue, batch,
deadline, isolation of decoders, metrics or log. Prints its address."""

import argparse
import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from export.bundle import Bundle, Predictor
from tests.bench.engines import start
from tests.bench.limit import whole


def endpoint(predictor: Predictor) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/inspect")
    async def inspect(request: Request) -> dict[str, Any]:
        [answer] = await run_in_threadpool(whole, await request.body(), predictor, 1)
        pictures = {"heatmap": answer.heatmap, "mask": answer.mask}
        encoded = {part: b64encode(picture).decode() for part, picture in pictures.items()}
        return {"verdict": answer.finding.verdict, "score": answer.finding.score, **encoded}

    return app


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.plain", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("engine")
    options = parser.parse_args()
    app = endpoint(start(Bundle.open(options.bundle), options.engine))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print("{}:{}".format(*listening.getsockname()), flush=True)
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error")).run([listening])


if __name__ == "__main__":
    main()
