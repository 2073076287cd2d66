"""The version of this program."""

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """The installed version; `unknown` for a source tree that was never installed."""
    try:
        return version("drd-inspect")
    except PackageNotFoundError:
        return "unknown"
