"""The rules for names: of products, one for command lines, manifest, models folder and tokens; of pictures of
one part."""

import re
from argparse import ArgumentTypeError

PRODUCT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""For `fullmatch`. A product's name is also its folder's name: without separators and a leading dot it can
be neither a path nor a hidden folder."""
UNKNOWN = "unknown"
"""No product's name: metrics count under it what callers ask for that is none."""


def part_pattern(text: str) -> re.Pattern[str]:
    """The regular expression that tells of which part a picture is; for argparse."""
    try:
        text.encode()  # the checkpoint holds it, in JSON
        return re.compile(text)
    except (UnicodeEncodeError, re.error, OverflowError, RecursionError) as error:
        raise ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from error


def is_product_name(text: str) -> bool:
    return text != UNKNOWN and PRODUCT_NAME.fullmatch(text) is not None
