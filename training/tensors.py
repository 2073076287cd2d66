"""Files of tensors, written whole or not at all."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.messages import one_line


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], outdated: Iterable[Path] = ()
) -> None:
    """safetensors, written in a folder beside `path` and renamed; before that, `outdated` files go.

    In a folder, since safetensors leaves a temporary file when it is killed: the next call removes it.
    """
    folder = path.with_suffix(".writing")
    temporary = folder / path.name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        save_file(tensors, temporary, metadata)
        temporary.chmod(folder.stat().st_mode & 0o666)  # others may read it, as what is beside it
    except (OSError, SafetensorError) as error:  # such as a full disk, which doesn't say of what
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"{path}: cannot be written ({one_line(error)})") from error
    for file in outdated:
        file.unlink(missing_ok=True)
    temporary.replace(path)
    folder.rmdir()
