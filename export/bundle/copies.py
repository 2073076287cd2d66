"""Private copies of bundles, where no other user can change a file between its check and its use."""

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from training.locks import locked

_PREFIX = "drd-bundle-"
_NEW_SECONDS = 60.0
"""A copy that is this new may not be locked yet."""


def private_copy(root: Path, names: Iterable[str]) -> tuple[Path, Callable[[], None]]:
    """A folder with copies of those files, and the function that removes it.

    Its lock is held until then or until the process ends, however that happens: a process that was killed
    leaves its copies to the next one to remove.
    """
    _remove_left_behind()
    copy = Path(mkdtemp(prefix=_PREFIX))
    with ExitStack() as remove:
        remove.callback(shutil.rmtree, copy, ignore_errors=True)
        remove.enter_context(locked(copy))
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy / name, follow_symlinks=False)
        return copy, remove.pop_all().close


def _remove_left_behind() -> None:
    for copy in Path(gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, another user's, or removed by another process meanwhile
            if not copy.is_symlink() and time.time() - copy.stat().st_mtime >= _NEW_SECONDS:
                with locked(copy):
                    shutil.rmtree(copy, ignore_errors=True)
