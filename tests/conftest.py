"""For all tests: one thread to compute with, nothing of the machine's own settings, and no time limit for an
example of Hypothesis, which would say something of the machine, nothing of us."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported; child processes inherit it. Tests' networks are too small to be divided, and
# threads that wait for each other spin: beside other work, a training of a second takes half a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

for _name in [name for name in os.environ if name.startswith(("DRD_", "OTEL_"))]:
    del os.environ[_name]
# No proxy leads to the services of tests; pip may need the one there is.
_direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{_direct},127.0.0.1,localhost".strip(",")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def misuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the `main` of a command says of arguments, which must end it with status 2."""

    def said(main: Callable[[list[str]], object], *arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 2
        return capsys.readouterr().err

    return said


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with version 1 of the product `tile`."""
    from tests.bundles import make_bundle  # after the number of threads is set

    make_bundle(tmp_path)
    return tmp_path
