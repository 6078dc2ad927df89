"""Create folders of generated data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpelk.utils.errors import InputError
from mmpelk.utils.files import UNFINISHED, remove_abandoned


def make_folder(root: str | Path, made_with: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Create a folder unless it exists already with the same settings. It appears only once it is complete.

    Args:
        root: The folder to create.
        made_with: The settings, which are saved in the folder as ``made_with.json``.
        write: Writes the files into a given folder.

    Returns:
        ``root``.

    Raises:
        FileExistsError: If ``root`` exists and was not created with these settings.
        InputError: If the folder cannot be written.
    """
    root = Path(root)
    stamp = root / 'made_with.json'
    if root.exists():
        if stamp.is_file() and _read(stamp) == made_with:
            return root
        raise FileExistsError(f'{root} exists but was not made with {made_with}; remove it or choose another folder')
    unfinished = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(root)
        unfinished = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', suffix=UNFINISHED, dir=root.parent))
        unfinished.chmod(0o755)
        write(unfinished)
        (unfinished / stamp.name).write_text(json.dumps(made_with))
        unfinished.rename(root)
    except OSError as error:
        raise InputError(f'cannot write {root}: {error.strerror or error}') from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _read(stamp: Path) -> Any:
    """Return the settings in a file, or None if it is damaged."""
    try:
        return json.loads(stamp.read_text())
    except ValueError:
        return None
