"""Clients of a service that needs tokens, TLS, and client certificates."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service import client
from service.access.tokens import make_token
from service.client import Client
from service.client.camera.cli import main
from tests.access.certificates import Authority
from tests.bundles import make_bundle
from tests.client.conftest import frame
from tests.e2e.serving import Running, serving
from tests.service.images import plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def plant(folder: Path) -> Authority:
    """Made by hand: the client and both doors accept it, whatever the version of Python."""
    return Authority(folder / "plant", key_usage=False)


@pytest.fixture(scope="module")
def tokens(folder: Path) -> dict[str, str]:
    """A token for everything and one for `bolt` only; the service's file is `tokens`."""
    made = {"all": make_token("all", None, None), "bolt": make_token("bolt", ["bolt"], None)}
    (folder / "tokens").write_text("".join(token.line() for _, token in made.values()))
    return {name: secret for name, (secret, _) in made.items()}


@pytest.fixture(scope="module")
def guarded(folder: Path, plant: Authority, tokens: dict[str, str]) -> Iterator[Running]:
    make_bundle(folder / "models", "tile")
    settings = plant.issue("server").settings(client_ca=plant.certificate)
    with serving(folder / "models", tokens=folder / "tokens", **settings) as running:
        yield running


@pytest.fixture(params=["https", "grpcs"])
def guarded_address(request: pytest.FixtureRequest, guarded: Running) -> str:
    place = guarded.service.http[0] if request.param == "https" else guarded.target
    return f"{request.param}://{place}"


@pytest.fixture(scope="module")
def options(plant: Authority, tokens: dict[str, str]) -> client.Options:
    """Everything the service asks for."""
    own = plant.issue("camera")
    return {"ca": plant.certificate, "certificate": (own.certificate, own.key), "token": tokens["all"]}


def test_full_credentials_are_admitted(guarded_address: str, options: client.Options) -> None:
    with Client(guarded_address, **options) as drd:
        answer = drd.inspect(frame(200))
        streamed = [outcome.answer for outcome in drd.stream([frame(200)])]

    assert answer.verdict == "NG"
    assert [streamed.verdict for streamed in streamed if streamed] == ["NG"]


@pytest.mark.parametrize("name", ["none", "unknown", "bolt"])
def test_an_insufficient_token_is_access_denied(
    guarded_address: str, options: client.Options, tokens: dict[str, str], name: str
) -> None:
    token = {"none": None, "unknown": "a" * 43, "bolt": tokens["bolt"]}[name]
    poorer: client.Options = {**options, "token": token}

    with Client(guarded_address, **poorer) as drd:
        with pytest.raises(client.AccessDenied):
            drd.inspect(frame(200))
        streamed = [type(outcome.error) for outcome in drd.stream([frame(200)])]

    assert streamed == [client.AccessDenied]


def test_an_authority_that_is_not_trusted_and_a_certificate_that_is_missing(
    guarded_address: str, options: client.Options, folder: Path
) -> None:
    other: client.Options = {**options, "ca": Authority(folder / "other").certificate, "retries": 0}
    nameless: client.Options = {**options, "certificate": None, "retries": 0}

    with Client(guarded_address, **other) as drd, pytest.raises(client.Unreachable):
        drd.inspect(frame(200))
    # TLS 1.3 reports a missing certificate only after the handshake.
    with (
        Client(guarded_address, **nameless) as drd,
        pytest.raises((client.Unreachable, client.ConnectionLost)),
    ):
        drd.inspect(frame(200))


def test_a_certificate_may_be_trusted_without_its_authority(
    guarded_address: str, options: client.Options, folder: Path
) -> None:
    pinned: client.Options = {**options, "ca": folder / "plant" / "server.crt"}

    with Client(guarded_address, **pinned) as drd:
        assert drd.inspect(frame(200)).verdict == "NG"


def test_certificates_that_are_gone_for_a_moment_do_not_end_a_stream(
    guarded: Running, options: client.Options, plant: Authority, tmp_path: Path
) -> None:
    """They are read for each connection, since they may be renewed."""
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(plant.certificate.read_bytes())
    given: client.Options = {**options, "ca": authorities, "retries": 0}

    with Client(f"grpcs://{guarded.target}", **given) as drd:
        authorities.unlink()
        outcomes = drd.stream([frame(200), frame(200)], window=1)
        gone = next(outcomes)
        authorities.write_bytes(plant.certificate.read_bytes())
        back = next(outcomes)

    assert isinstance(gone.error, client.Unreachable)
    assert str(authorities) in str(gone.error)
    assert back.answer


def test_the_camera_gets_in_too(
    guarded_address: str,
    plant: Authority,
    tokens: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = plant.issue("line-7")
    (tmp_path / "dark.png").write_bytes(plain(30))
    (tmp_path / "token").write_text(tokens["all"] + "\n")
    given = ["--product", "tile", "--to", guarded_address, "--ca", str(plant.certificate), "--quiet"]
    given += ["--certificate", str(own.certificate), "--key", str(own.key), str(tmp_path / "dark.png")]

    assert main(given) == 1
    assert "--token-file" in capsys.readouterr().err
    assert main([*given, "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.setenv("DRD_TOKEN", tokens["all"])
    assert main(given) == 0
