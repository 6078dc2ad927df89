"""Write files so that a process killed at any moment leaves the previous version intact."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import InputError

UNFINISHED = '.unfinished'
# Unfinished files that have not changed for this many seconds are assumed to be left over from a killed process.
ABANDONED = 3600


def write_atomically(content: bytes, path: str | Path) -> None:
    """Write a file that appears only once it is complete. Until then, a previous file with its name remains.

    If ``path`` is a symbolic link, the file that it points to is written. Missing folders are created.

    Raises:
        InputError: If ``path`` exists and is not a regular file, such as a folder or ``/dev/null``, or cannot be written.
    """
    write_together({path: content})


def write_together(contents: Mapping[str | Path, bytes]) -> None:
    """Write several files like :func:`write_atomically`. If one of them cannot be written, none of them changes.

    Args:
        contents: The content of each file by its path.

    Raises:
        InputError: If a path exists and is not a regular file, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        finish = [stack.enter_context(_unfinished(content, path)) for path, content in contents.items()]
        for unfinished, path in finish:
            os.replace(unfinished, path)


@contextlib.contextmanager
def _unfinished(content: bytes, path: str | Path) -> Iterator[tuple[Path, Path]]:
    """Write the content to an unfinished file beside the target file, and return the paths of both.

    At the end of the context, the unfinished file is removed if it still exists.
    """
    unfinished = None
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise InputError(f'cannot write {path}: it is not a regular file; choose another path')
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target)
        descriptor, unfinished = tempfile.mkstemp(prefix=_prefix(target), suffix=UNFINISHED, dir=target.parent)
        with open(descriptor, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = target.stat().st_mode if target.exists() else 0o666 & ~_umask()
        os.chmod(unfinished, mode)
        yield Path(unfinished), target
    except InputError:
        raise
    except FileExistsError as error:
        raise InputError(f'cannot write {path}: {error.filename} is not a directory') from error
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        raise InputError(f'cannot write {path}: {getattr(error, "strerror", None) or error}') from error
    finally:
        if unfinished is not None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(unfinished)


def remove_abandoned(target: Path) -> None:
    """Remove unfinished copies of a file or folder that were left over from killed processes."""
    for path in target.parent.glob(f'{glob.escape(_prefix(target))}*{UNFINISHED}'):
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _prefix(target: Path) -> str:
    """Return the beginning of the names of unfinished files, which must not be much longer than the file's own name."""
    return f'.{target.name[:100]}-'


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
