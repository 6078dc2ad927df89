"""Write files so that a process killed at any moment leaves the previous version intact."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import InputError

UNFINISHED = '.unfinished'


def write_atomically(content: bytes, path: str | Path) -> None:
    """Write a file that appears only once it is complete. Until then, a previous file with its name remains.

    If ``path`` is a symbolic link, the file that it points to is written.

    Raises:
        InputError: If ``path`` exists and is not a regular file, such as a folder or ``/dev/null``.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise InputError(f'cannot write {path}: it is not a regular file; choose another path')
    path = target
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=f'.{path.name}-', suffix=UNFINISHED, dir=path.parent)
    try:
        with open(descriptor, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        os.chmod(unfinished, mode)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)
        raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
