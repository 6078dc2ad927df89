"""Folders of data that are made on the spot."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_folder(root: str | Path, made_with: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Have a folder written, unless it was written with the same settings before; it appears only once it is complete.

    Raises:
        FileExistsError: If it exists and was not made with these settings.
    """
    root = Path(root)
    stamp = root / 'made_with.json'
    if root.exists():
        if stamp.is_file() and json.loads(stamp.read_text()) == made_with:
            return root
        raise FileExistsError(f'{root} exists and does not hold what is made with {made_with}; remove it or name another folder')
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
