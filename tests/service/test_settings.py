from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service import settings
from service.cli import main
from service.settings import AROUND_IMAGE, Address, Settings, unknown_variables

NUMBERS = sorted(name for name, field in Settings.model_fields.items() if field.annotation in (int, float))


def test_there_is_a_worker_for_each_core_that_may_be_used_and_one_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "cores_allowed", lambda: 8)
    assert Settings(models=Path()).workers == 9


def test_what_looks_like_a_setting_and_is_none_is_found() -> None:
    assert unknown_variables(["DRD_HTTP", "drd_takt_ms", "DRD_TAKT", "drd_htp", "PATH"]) == [
        "DRD_TAKT",
        "drd_htp",
    ]


@pytest.mark.parametrize("value", [str(10**18), "9" * 20, "1e18", "inf", "nan", "-1", "-inf"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_cannot_work_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, misuse: Callable[..., str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"DRD_{name.upper()}", value)

    said = misuse(main, "--models", "nowhere").splitlines()[-1]

    assert said.startswith(f"drd-serve: error: DRD_{name.upper()}: Input should")  # none of them is an option


def test_zero_is_refused_except_where_it_means_something(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = set[str]()
    for name in NUMBERS:
        with monkeypatch.context() as environment, suppress(ValidationError):
            environment.setenv(f"DRD_{name.upper()}", "0")
            Settings(models=Path())
            accepted.add(name)

    assert accepted == {"history_bytes", "keep_old_seconds", "lame_duck_seconds"}


def test_a_queue_without_room_for_what_surrounds_the_largest_image_is_refused() -> None:
    largest = 10**6
    assert Settings(models=Path(), max_image_bytes=largest, max_queued_bytes=largest + AROUND_IMAGE)
    with pytest.raises(ValidationError, match="must be at least max_image_bytes"):
        Settings(models=Path(), max_image_bytes=largest, max_queued_bytes=largest + AROUND_IMAGE - 1)


def test_an_option_may_hold_several_addresses_as_the_environment_may(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Address("127.0.0.1", 1), Address("localhost", 2), Address(path="/run/drd")
    arguments: dict[str, Any] = {"http": ["127.0.0.1:1,localhost:2", "unix:/run/drd"]}
    monkeypatch.setenv("DRD_GRPC", "127.0.0.1:1, localhost:2 unix:/run/drd")

    assert Settings(models=Path(), grpc=(), **arguments).http == several
    assert Settings(models=Path(), http=()).grpc == several


@pytest.mark.parametrize("address", ["127.0.0.1:8090", "unix:door"])
@pytest.mark.parametrize("second", ["--http", "--grpc", "--admin"])
def test_an_address_given_twice_is_refused_before_another_program_is_blamed(
    misuse: Callable[..., str], address: str, second: str
) -> None:
    said = misuse(main, "--models", "nowhere", "--http", address, second, address).splitlines()[-1]
    assert said == f"drd-serve: error: the address {address} is given twice: each door needs its own"


def test_a_port_that_the_system_chooses_may_be_asked_for_twice() -> None:
    twice = (Address("127.0.0.1", 0),) * 2
    assert Settings(models=Path(), http=twice, grpc=twice, admin=twice[0])


def test_an_empty_address_closes_a_door_only_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, misuse: Callable[..., str]
) -> None:
    monkeypatch.setenv("DRD_GRPC", "")
    assert Settings(models=Path()).grpc == ()
    assert "'' is not an address" in misuse(main, "--models", "nowhere", "--grpc", "")


@pytest.mark.parametrize("name", ["nosuch", "", "tensorrt-fp16-smNN"])
def test_an_engine_that_does_not_exist_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, misuse: Callable[..., str], name: str
) -> None:
    monkeypatch.setenv("DRD_ENGINE", name)

    said = misuse(main, "--models", "nowhere").splitlines()[-1]

    assert said.startswith(
        f"drd-serve: error: --engine (or DRD_ENGINE): there is no engine {name!r}; known: "
    )


@pytest.mark.parametrize("name", ["auto", "openvino-int8", "tensorrt-rtx-fp16-sm89"])
def test_an_engine_that_exists_need_not_be_in_a_bundle_yet(name: str) -> None:
    assert Settings(models=Path(), engine=name).engine == name


@pytest.mark.parametrize(
    ("variable", "models", "option"), [("DRD_TOKENS", "nowhere", "--tokens"), ("DRD_HTTP", "", "--models")]
)
def test_what_is_empty_is_no_file(
    monkeypatch: pytest.MonkeyPatch, misuse: Callable[..., str], variable: str, models: str, option: str
) -> None:
    """What a template has left empty must neither let everybody in nor stand for the folder here."""
    monkeypatch.setenv(variable, "")
    said = misuse(main, "--models", models).splitlines()[-1]
    assert f"{option} (or DRD_{option[2:].upper()}): it is empty" in said
