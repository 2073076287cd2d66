"""The tokens file: made by the program, followed by the service, and of no use to whoever reads it."""

import fcntl
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO

import httpx
import pytest

from service.access.access import Access
from service.access.tokens import TokensError, find, make_token, parse_tokens
from service.cli import main
from service.errors import Unauthenticated
from service.metrics import Metrics
from tests.access.conftest import Guarded
from tests.e2e.serving import drd_serve, process, serving, wait_until

DIGEST = "0" * 64
_F_SETSIG = 10  # of Linux's fcntl.h


def lists(url: str, secret: str) -> int:
    return httpx.get(f"{url}/v1/products", headers={"authorization": f"Bearer {secret}"}).status_code


def test_made_used_rotated_and_removed_without_a_restart(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"

    def token(*arguments: str) -> str:
        assert main(["token", *arguments, "--file", str(file)]) == 0
        return capsys.readouterr().out.strip()

    first = token("add", "line-3", "--product", "tile", "--product", "bolt")
    assert re.fullmatch(r"drd_[A-Za-z0-9_-]{43}", first)
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with serving(models, tokens=file) as running:
        assert lists(running.url, first) == 200
        month = datetime.now(UTC).date() + timedelta(days=30)
        second = token("add", "line-3-new", "--days", "30")
        wait_until(lambda: lists(running.url, second) == 200)
        assert lists(running.url, first) == 200  # both, while callers change over
        token("remove", "line-3")
        wait_until(lambda: lists(running.url, first) == 401)
        assert lists(running.url, second) == 200
    assert token("list").split() == ["line-3-new", "*", str(month)]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "'a b' is not 1 to 64 letters"),
        (["line-3", "--product", "a b"], "'a b' is not 1 to 64 letters"),
        (["line-3", "--until", "2020-01-01"], "2020-01-01 is over"),
        (["line-3", "--until", "soon"], "soon is not a date"),
        *((["line-3", "--days", days], "is not a number of days") for days in ("0", "-5", "5000000", "soon")),
    ],
)
def test_misuse_is_told_as_such(
    arguments: list[str], said: str, tmp_path: Path, misuse: Callable[..., str]
) -> None:
    assert said in misuse(main, "token", "add", *arguments, "--file", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_token_is_added_behind_a_last_line_without_an_end(tmp_path: Path) -> None:
    """As some editors leave it. On one line with it, neither would be valid any more."""
    file = tmp_path / "tokens"
    assert main(["token", "add", "line-3", "--file", str(file)]) == 0
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert main(["token", "add", "line-4", "--file", str(file)]) == 0
    assert [token.grant.caller for token in parse_tokens(file.read_bytes())] == ["line-3", "line-4"]


def test_whoever_could_read_the_file_still_can_when_a_token_is_removed(tmp_path: Path) -> None:
    """Else the service, another user than the one who removes, would go on with the tokens it knew."""
    other = 10_001 if os.geteuid() == 0 else os.geteuid()  # only root may give files away
    file, link = tmp_path / "kept/tokens", tmp_path / "tokens"
    file.parent.mkdir()
    link.symlink_to(file)
    for name in ("line-3", "line-4"):
        assert main(["token", "add", name, "--file", str(link)]) == 0
    file.chmod(0o640)
    os.chown(file, other, -1)

    assert main(["token", "remove", "line-3", "--file", str(link)]) == 0

    assert [token.grant.caller for token in parse_tokens(file.read_bytes())] == ["line-4"]
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o640, other)
    assert link.is_symlink()
    assert [each.name for each in file.parent.iterdir()] == ["tokens"]


def test_a_link_to_itself_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokens").symlink_to("tokens")
    assert main(["token", "add", "line-3", "--file", str(tmp_path / "tokens")]) == 1
    assert capsys.readouterr().err == (
        f"drd-serve token: {tmp_path / 'tokens'}: Too many levels of symbolic links\n"
    )


def test_a_token_that_there_is_not_is_not_said_to_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever misspells the name would believe it invalid."""
    file = tmp_path / "tokens"
    assert main(["token", "add", "line-3", "--file", str(file)]) == 0
    before = file.read_bytes()
    assert main(["token", "remove", "line-03", "--file", str(file)]) == 1
    assert "there is no token 'line-03'" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_changes_at_the_same_time_lose_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    old, new = ([f"{kind}-{number}" for number in range(30)] for kind in ("old", "new"))
    for name in old:
        assert main(["token", "add", name, "--file", str(file)]) == 0

    changes = [
        ["token", *change]
        for pair in zip(old, new, strict=True)
        for change in zip(("remove", "add"), pair, strict=True)
    ]
    with ThreadPoolExecutor(4) as people:
        ended = list(people.map(lambda change: main([*change, "--file", str(file)]), changes))

    assert ended == [0] * len(changes)
    assert {token.grant.caller for token in parse_tokens(file.read_bytes())} == set(new)
    assert [each.name for each in tmp_path.iterdir()] == ["tokens"]


def test_a_file_that_is_damaged_or_gone_changes_nothing(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    secret, token = make_token("line-3", None, None)
    file.write_text(token.line())
    with serving(models, tokens=file) as running:
        file.write_text("line-3 what is this\n")
        wait_until(lambda: "line 1 of the tokens file: " in caplog.text)
        assert lists(running.url, secret) == 200
        file.unlink()
        wait_until(lambda: "No such file" in caplog.text)
        assert lists(running.url, secret) == 200
        os.mkfifo(file)
        wait_until(lambda: "it is not a regular file" in caplog.text)
        assert lists(running.url, secret) == 200
        file.unlink()
        file.write_text("")
        wait_until(lambda: lists(running.url, secret) == 401)


def test_a_file_that_hangs_does_not_keep_the_service_from_its_end(models: Path, tmp_path: Path) -> None:
    """As on a network share that is away."""
    file = tmp_path / "tokens"
    file.write_text("")
    with (
        process("--models", models, "--tokens", file, DRD_WATCH_SECONDS="0.05") as service,
        file.open("r+") as leased,
    ):
        fcntl.fcntl(leased, _F_SETSIG, signal.SIGURG)  # which is ignored
        wait_until(lambda: is_leased(leased))
        # Whoever opens it now waits until the lease is given up, for 45 s at most.
        wait_until(lambda: fcntl.fcntl(leased, fcntl.F_GETLEASE) != fcntl.F_WRLCK)
        service.popen.terminate()
        assert service.popen.wait(20) == 0


def is_leased(file: IO[str]) -> bool:
    with suppress(BlockingIOError):  # the service is reading it
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return True
    return False


def test_a_file_that_is_read_half_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    (_, first), (secret, second) = make_token("line-3", None, None), make_token("line-4", None, None)
    whole = first.line() + second.line()
    file.write_text(whole)
    access = Access(file, Metrics(takt_seconds=0.2))

    for content in ("", first.line(), whole, "", whole):
        file.write_text(content)
        access.refresh()
        assert access.admit(secret).caller == "line-4"
    file.write_text(first.line())
    access.refresh()
    access.refresh()
    with pytest.raises(Unauthenticated):
        access.admit(secret)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("line-3", "NAME SHA256 PRODUCTS UNTIL"),
        (f"line-3 {DIGEST} * never more", "NAME SHA256 PRODUCTS UNTIL"),
        (f"line-3 {DIGEST[1:]} * never", "not a SHA-256"),
        (f"line-3 {'G' * 64} * never", "not a SHA-256"),
        (f"../line {DIGEST} * never", "names and products"),
        (f"line-3 {DIGEST} tile,../bolt never", "names and products"),
        (f"line-3 {DIGEST} tile, never", "names and products"),
        (f"line-3 {DIGEST} * tomorrow", "neither a date"),
        (f"a {DIGEST} * never\nb {DIGEST} * 2027-02-30", "line 2 "),
        (f"a {DIGEST} * never\na {DIGEST} * never", "the name is used"),
        ("a \xff", "NAME SHA256 PRODUCTS UNTIL"),
    ],
)
def test_a_line_that_is_none_is_named_and_not_repeated(line: str, told: str) -> None:
    with pytest.raises(TokensError) as caught:
        parse_tokens(line.encode("latin-1"))
    assert told in str(caught.value)
    assert DIGEST not in str(caught.value)


def test_comments_and_empty_lines_are_passed_over() -> None:
    (token,) = parse_tokens(f"# who\n\n  line-3 {DIGEST} tile,bolt 2030-01-01  # until then\n".encode())
    assert (token.grant.caller, token.grant.products) == ("line-3", frozenset({"tile", "bolt"}))
    assert token.until == date(2030, 1, 1)


def test_a_token_is_valid_on_its_last_day_and_not_after() -> None:
    today = datetime.now(UTC).date()
    secret, token = make_token("line-3", None, today + timedelta(days=1))  # midnight may pass meanwhile
    assert find([token], secret).caller == "line-3"
    secret, token = make_token("line-3", None, today - timedelta(days=1))
    with pytest.raises(Unauthenticated, match="expired"):
        find([token], secret)


def test_what_is_stored_does_not_open_the_door() -> None:
    _, token = make_token("line-3", None, None)
    for stolen in (token.digest.hex(), token.digest.decode("latin-1"), token.line()):
        with pytest.raises(Unauthenticated):
            find([token], stolen)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--http", "0.0.0.0:0"], "other machines can reach 0.0.0.0:0"),
        (["--grpc", "[::]:0"], "other machines can reach [::]:0"),
        (["--http", "127.0.0.1:0", "--grpc", "plant.example:0"], "other machines can reach plant.example:0"),
        (["--tls-key", "key"], "must be given together"),
        (["--tls-client-ca", "ca"], "--tls-client-ca needs"),
    ],
)
def test_a_door_that_stands_open_by_accident_is_refused(
    arguments: list[str], told: str, misuse: Callable[..., str]
) -> None:
    assert told in misuse(main, "--models", ".", *arguments).splitlines()[-1]


def test_a_name_is_given_to_one_token_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add = ["token", "add", "line-3", "--file", str(tmp_path / "tokens")]
    assert (main(add), main(add)) == (0, 1)
    assert "there is a token 'line-3' in " in capsys.readouterr().err
    assert len(parse_tokens((tmp_path / "tokens").read_bytes())) == 1


def test_a_bad_tokens_file_at_the_start_ends_it(models: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("line-3")
    for file, told in ((tmp_path / "tokens", "line 1 of the tokens file"), (tmp_path / "no", "No such file")):
        ended = drd_serve("--models", models, "--tokens", file)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert told in line


def test_others_are_let_in_when_that_is_said(models: Path) -> None:
    for said in ({"open_to_anyone": True}, {"open_to_anyone": False, "admin": "0.0.0.0:0", "http": ""}):
        with serving(models, **({"http": "0.0.0.0:0"} | said)) as running:
            address = (running.service.http or running.service.admin)[0]
            assert httpx.get(f"http://127.0.0.1:{address.port}/health/live").status_code == 200


def test_tokens_without_tls_are_warned_of_where_others_can_listen(
    models: Path, guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    for address, told in (("127.0.0.1:0", False), ("0.0.0.0:0", True)):
        with serving(models, tokens=guarded.tokens.path, http=address):
            assert ("clear text" in caplog.text) == told


def test_the_admin_address_needs_no_token_and_counts_who_was_turned_away(guarded: Guarded) -> None:
    admin = f"http://{guarded.running.service.admin[0]}"
    assert httpx.get(f"{admin}/health/ready").status_code == 200

    def denied(reason: str) -> float:
        lines = httpx.get(f"{admin}/metrics").text.splitlines()
        start = f'drd_denied_total{{door="http",reason="{reason}"}} '
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    url, reasons = guarded.running.url, ("unknown", "missing", "product")
    before = [denied(reason) for reason in reasons]
    lists(url, "drd_no-such-token")
    stranger = httpx.get(f"{url}/v1/products", headers={"x-request-id": "7"})
    assert (stranger.status_code, stranger.headers["x-request-id"]) == (401, "7")
    assert "request_id" not in httpx.get(f"{url}/metrics").json()
    httpx.get(f"{url}/session")  # a page that asks whether to log in
    httpx.get(f"{url}/session", headers={"cookie": "drd=drd_no-such-token"})
    httpx.post(f"{url}/session", json={"token": "drd_no-such-token"})
    for path in ("/metrics", "/v1/products/bolt"):
        refused = httpx.get(url + path, headers={"authorization": f"Bearer {guarded.tile}"})
        assert refused.status_code == 403
    assert [denied(reason) for reason in reasons] == [before[0] + 3, before[1] + 2, before[2] + 2]


def test_a_flood_of_strangers_does_not_flood_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "tokens").write_text("")
    access = Access(tmp_path / "tokens", Metrics(takt_seconds=0.2))
    for _ in range(10_000):
        access.denied("http", Unauthenticated("a token is needed", reason="missing"))
    lines = [record for record in caplog.records if "refused" in record.message]
    assert 1 <= len(lines) < 1000


def test_no_secret_gets_into_the_log(models: Path, tmp_path: Path) -> None:
    """Whatever is asked with a token, right or wrong: of neither is a trace in what the service says."""
    secret, token = make_token("line-3", ["tile"], None)
    wrong = "drd_wrong-and-yet-somebodys-secret"
    (tmp_path / "tokens").write_text(token.line())
    environment = {
        "DRD_LOG_LEVEL": "debug",
        "DRD_TOKENS": str(tmp_path / "tokens"),
        "DRD_WATCH_SECONDS": "0.05",
    }
    with process("--models", models, **environment) as service, httpx.Client(base_url=service.url) as http:
        for used in (secret, wrong):
            header, cookie = {"authorization": f"Bearer {used}"}, {"cookie": f"drd={used}"}
            for headers in (header, cookie):
                http.post("/v1/inspect?product=tile", content=b"no picture", headers=headers)
                http.post("/v1/inspect?product=bolt", headers=headers)
                http.get("/v1/products/bolt", headers=headers)
            http.post("/session", json={"token": used})
            http.post("/session", json={"tokens": used})
            http.delete("/session", headers=header)
        (tmp_path / "tokens").write_text(f"line-3 {secret} * never")  # in place of its digest
        wait_until(lambda: any("tokens in use are kept" in line["message"] for line in service.log()))
        log = Path(service.errors.name).read_text(encoding="utf-8")
        printed = "\n".join(service.lines)

    assert '"caller":"line-3"' in log
    for text in (secret, wrong, token.digest.hex()):
        assert text not in log
        assert text not in printed
