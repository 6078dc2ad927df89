"""Reading checkpoints without running code from them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpelk.utils.errors import InputError, first_line

from .safe_types import allow_mmengine_types


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file without running code from it (``weights_only=True``).

    Args:
        path: A local file, of ``torch.save`` or, if its name ends so, of safetensors.
        map_location: As for ``torch.load``.

    Raises:
        InputError: If there is no such file, or it is truncated, or holds anything but tensors and plain or mmengine types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    return load_safely(path, str(path), map_location)


def load_safely(file: Any, name: str, map_location: Any) -> dict[str, Any]:
    """Read a checkpoint from a path or a binary file object with ``weights_only=True``; ``name`` is for messages.

    Raises:
        InputError: See :func:`read_checkpoint`.
    """
    allow_mmengine_types()
    try:
        checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = [line.strip() for line in str(error).splitlines() if 'GLOBAL' in line or 'Unsupported' in line]
        if not refused:
            raise InputError(f'checkpoint {name} is truncated or no checkpoint: {first_line(error)}') from error
        raise InputError(f'checkpoint {name} cannot be loaded safely: {refused[0]}') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f'checkpoint {name} is truncated or no checkpoint: {first_line(error)}') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {name} holds a {type(checkpoint).__name__}; expected a dict with weights')
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f'checkpoint {path} is truncated or no safetensors file: {first_line(error)}') from error


def model_weights(checkpoint: Mapping[str, Any], prefix: str = '') -> dict[str, Tensor]:
    """The weights in a checkpoint, of the part named by ``prefix`` and without it; without DDP's 'module.' in front.

    mmengine's EMA hook saves the averaged weights as 'state_dict', so these are what an EMA checkpoint gives.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
