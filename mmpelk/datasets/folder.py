"""Create folders of generated data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    """
    root = Path(root)
    stamp = root / 'made_with.json'
    if root.exists():
        if stamp.is_file() and json.loads(stamp.read_text()) == made_with:
            return root
        raise FileExistsError(f'{root} exists but was not made with {made_with}; remove it or choose another folder')
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        unfinished.chmod(0o755)
        write(unfinished)
        (unfinished / stamp.name).write_text(json.dumps(made_with))
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return root
