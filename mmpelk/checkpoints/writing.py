"""Write checkpoints so that a process killed at any moment leaves the previous version intact."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from mmpelk.utils.files import write_atomically


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Save a checkpoint atomically with ``torch.save``."""
    write_atomically(checkpoint_bytes(checkpoint), path)


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()
