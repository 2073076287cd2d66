from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from service.access.tokens import make_token
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving


@dataclass(frozen=True)
class Tokens:
    """A tokens file, and the secrets of those it lists."""

    path: Path

    def add(self, name: str, *products: str, until: date | None = None) -> str:
        secret, token = make_token(name, products or None, until)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(token.line())
        return secret


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products, `tile` and `bolt`."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "tile")
    make_bundle(models, "bolt")
    return models


@dataclass(frozen=True)
class Guarded:
    """A service that asks for tokens: one for everything, one for `tile` alone, one that has expired."""

    running: Running
    tokens: Tokens
    all: str
    tile: str
    expired: str


@pytest.fixture(scope="module")
def guarded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    tokens = Tokens(tmp_path_factory.mktemp("access") / "tokens")
    secrets = tokens.add("all"), tokens.add("tile-only", "tile"), tokens.add("old", until=date(2020, 1, 1))
    with serving(models, tokens=tokens.path, admin="127.0.0.1:0") as running:
        yield Guarded(running, tokens, *secrets)
