"""`drd-serve` with the engine that costs nothing; settings from the environment."""

import uvloop

from service.app import run
from service.cli import announce
from service.logs import set_up_logs
from service.settings import Settings
from tests.bench.engines import FREE, start

if __name__ == "__main__":
    set_up_logs("info")
    uvloop.run(run(Settings(), announce, lambda bundle, _: start(bundle, FREE)))
