"""Bearer tokens, and the file that lists them: one per line, `#` begins a comment.

    # name    sha256                                                            products     until
    line-3    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  gasket,bolt  2027-01-31
    page      60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  *            never

A token has 256 random bits, so a plain SHA-256 is safe: there is no dictionary to try.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from export.bundle import PRODUCT_NAME
from service.errors import Forbidden, Unauthenticated
from service.files import read_file

PREFIX = "drd_"
"""By it, scanners for leaked secrets recognise a token."""
MAX_BYTES = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class TokensError(ValueError):
    """The tokens file is invalid; the message is one clear line without secrets."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do. `caller` is its name in the log; `products` None means all."""

    caller: str = ""
    products: frozenset[str] | None = None

    def covers(self, product: str) -> bool:
        return self.products is None or product in self.products

    def check(self, product: str) -> None:
        """Raises Forbidden, with the same message whether the product exists or not."""
        if not self.covers(product):
            raise Forbidden(f"this token is not for product {product[:100]!r}", reason="product")

    def check_all(self) -> None:
        """Raises Forbidden unless it covers all products."""
        if self.products is not None:
            raise Forbidden("this token is not for all products", reason="product")


EVERYTHING = Grant()


@dataclass(frozen=True, slots=True)
class Token:
    """A line of the file. `until` is the last day it is valid, in UTC; None: for ever."""

    grant: Grant
    digest: bytes
    until: date | None

    def line(self) -> str:
        products = "*" if self.grant.products is None else ",".join(sorted(self.grant.products))
        return f"{self.grant.caller}  {self.digest.hex()}  {products}  {self.until or 'never'}\n"


def make_token(name: str, products: Iterable[str] | None, until: date | None) -> tuple[str, Token]:
    """A new secret, and what the file keeps of it. The names are not checked here."""
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(Grant(name, None if products is None else frozenset(products)), _digest(secret), until)
    return secret, token


def read_tokens(path: Path) -> bytes:
    """The file's content, or TokensError."""
    try:
        content = read_file(path, MAX_BYTES + 1)
    except OSError as error:
        raise TokensError(f"the tokens file {path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise TokensError(f"the tokens file {path} is larger than {MAX_BYTES} bytes")
    return content


def parse_tokens(content: bytes) -> tuple[Token, ...]:
    """All tokens of the file; TokensError names the first invalid line."""
    tokens = dict[str, Token]()
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if not (text := line.partition("#")[0].strip()):
            continue
        try:
            token = _parse_line(text)
        except TokensError as error:
            raise TokensError(f"line {number} of the tokens file: {error}") from error
        if token.grant.caller in tokens:
            raise TokensError(f"line {number} of the tokens file: the name is used by an earlier line")
        tokens[token.grant.caller] = token
    return tuple(tokens.values())


def find(tokens: Iterable[Token], secret: str | None) -> Grant:
    """What the holder of `secret` may do; raises Unauthenticated if it is not valid.

    Compares with every digest in constant time, so that timing reveals nothing.
    """
    if not secret:
        raise Unauthenticated("a token is needed: Authorization: Bearer TOKEN", reason="missing")
    digest, found = _digest(secret), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    if found is None:
        raise Unauthenticated("the token is not valid here", reason="unknown")
    if found.until is not None and found.until < datetime.now(UTC).date():
        raise Unauthenticated(f"the token expired after {found.until}", reason="expired")
    return found.grant


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _parse_line(line: str) -> Token:
    fields = line.split()
    if len(fields) != 4:
        raise TokensError("it is not NAME SHA256 PRODUCTS UNTIL")
    name, digest, products, until = fields
    names = None if products == "*" else frozenset(products.split(","))
    if not all(PRODUCT_NAME.fullmatch(each) for each in (name, *(names or ()))):
        raise TokensError("names and products are letters, digits, '.', '_' and '-', at most 64")
    if not _DIGEST.fullmatch(digest):
        raise TokensError("the second field is not a SHA-256 in 64 hexadecimal digits")
    try:
        last = None if until == "never" else date.fromisoformat(until)
    except ValueError as error:
        raise TokensError("the last field is neither a date, YYYY-MM-DD, nor 'never'") from error
    return Token(Grant(name, names), bytes.fromhex(digest), last)
