"""Which types a checkpoint may hold besides tensors."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_types() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine itself puts into a checkpoint.

    mmengine saves its message hub with each checkpoint: HistoryBuffer objects that hold numpy arrays. Since torch 2.6 these types
    must be named before a file with them can be read safely; without that, ``resume`` fails. None of them runs code when loaded.
    Call it before each load: OneDL's mmengine takes its own list, and with it ours, back after each of its loads.
    """

    core = np._core if hasattr(np, '_core') else np.core
    numpy_types = [np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar]
    # Files written under numpy 1 name these functions by their old module.
    numpy_types += [(function, f'numpy.core.multiarray.{function.__name__}') for function in numpy_types[2:]]
    numpy_types += [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')]
    torch.serialization.add_safe_globals([HistoryBuffer, (_history_buffer_method, 'builtins.getattr'), *numpy_types])


def _history_buffer_method(owner: object, name: str) -> object:
    """Stands in for ``getattr`` in a pickle, where HistoryBuffer's statistics are stored as getattr(HistoryBuffer, 'mean')."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported: getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(HistoryBuffer, name)
