from pathlib import Path

import pytest

from tests.deploy.manifests import fetch_kubectl


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_kubectl(tmp_path_factory.mktemp("kubectl"))
