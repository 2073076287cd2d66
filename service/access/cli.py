"""drd-serve token: adds, lists and removes tokens of a tokens file, which a running service reloads."""

import argparse
import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from export.bundle import PRODUCT_NAME
from service.access.tokens import Token, TokensError, make_token, parse_tokens, read_tokens

_MAX_DAYS = 36_500
_EPILOG = """The file stores only the SHA-256 of each token. To rotate one: add a second under another name,
give it to the callers, remove the first. Callers send it as the header Authorization: Bearer TOKEN."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for misuse."""
    options = _parser().parse_args(arguments)
    try:
        match options.action:
            case "add":
                with _locked(options.file):
                    _add(options.file, options.name, options.product, _until(options))
            case "remove":
                with _locked(options.file):
                    _remove(options.file, options.name)
            case "list":
                print("".join(_shown(token) for token in parse_tokens(read_tokens(options.file))), end="")
    except TokensError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{options.file}: {error.strerror or error}")
    return 0


def _fail(reason: str) -> int:
    print(f"drd-serve token: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("drd-serve token", description=__doc__, epilog=_EPILOG)
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|remove")
    add = actions.add_parser("add", help="make a token and print it, this once")
    remove = actions.add_parser("remove", help="make a token invalid")
    every = actions.add_parser("list", help="show names, products and last days")
    for action in (add, remove, every):
        action.add_argument("--file", type=Path, required=True, metavar="FILE", help="the tokens file")
    for action in (add, remove):
        action.add_argument(
            "name", type=_name, metavar="NAME", help="name of the token's holder, used in the log"
        )
    add.add_argument(
        "--product",
        type=_name,
        action="append",
        metavar="NAME",
        help="valid for this product; repeatable (default: for all)",
    )
    last = add.add_mutually_exclusive_group()
    last.add_argument("--days", type=_days, metavar="N", help="valid for N days (default: for ever)")
    last.add_argument("--until", type=_last_day, metavar="YYYY-MM-DD", help="its last day, in UTC")
    return parser


def _name(text: str) -> str:
    if not PRODUCT_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 letters, digits, '.', '_' and '-'")
    return text


def _last_day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a date, YYYY-MM-DD") from error
    if day < datetime.now(UTC).date():
        raise argparse.ArgumentTypeError(f"{text} is over: the token would not be valid")
    return day


def _days(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _MAX_DAYS):
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 1 to {_MAX_DAYS}")
    return int(text)


def _until(options: argparse.Namespace) -> date | None:
    if options.days is not None:
        return datetime.now(UTC).date() + timedelta(days=options.days)
    until: date | None = options.until
    return until


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Excludes others that change the file. Locks its folder: the file itself may be replaced."""
    # Not by Path.resolve, which raises RuntimeError for a link to itself.
    folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network share may not lock folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _add(path: Path, name: str, products: list[str] | None, until: date | None) -> None:
    content = read_tokens(path) if path.exists() else b""
    if name in [token.grant.caller for token in parse_tokens(content)]:
        raise TokensError(f"there is a token {name!r} in {path} already")
    secret, token = make_token(name, products, until)
    line = token.line() if content.endswith(b"\n") or not content else f"\n{token.line()}"
    path.touch(mode=0o600)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        os.truncate(path, len(content))  # half a line, as on a full disk, would make the file invalid
        raise
    print(secret)


def _remove(path: Path, name: str) -> None:
    content = read_tokens(path)
    if name not in [token.grant.caller for token in parse_tokens(content)]:
        raise TokensError(f"there is no token {name!r} in {path}")
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    _replace(path.resolve(), "".join(line for line in lines if line.split()[:1] != [name]))


def _replace(path: Path, content: str) -> None:
    """Replaces the file atomically, as the service may be reading it, and keeps its owner and mode."""
    before = path.stat()
    kept = path.with_name(f".{path.name}.new")
    kept.touch(mode=0o600)
    kept.write_text(content, encoding="utf-8")
    for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):  # one of them may be allowed
        with suppress(PermissionError):
            os.chown(kept, owner, group)
    kept.chmod(stat.S_IMODE(before.st_mode))
    after = kept.stat()
    kept.replace(path)
    if (after.st_uid, after.st_gid) != (before.st_uid, before.st_gid):
        warning = f"you may not restore the owner or group {path} had: check that the service can read it"
        print(f"drd-serve token: {warning}", file=sys.stderr)


def _shown(token: Token) -> str:
    name, _, products, until = token.line().split()
    return f"{name:20} {products:40} {until}\n"
