"""Allow mmengine's types in checkpoints that are read with ``weights_only=True``."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_types() -> None:
    """Let ``torch.load(weights_only=True)`` read the types that mmengine saves in a checkpoint.

    mmengine saves its message hub with each checkpoint: HistoryBuffer objects, which contain NumPy arrays. Since torch 2.6,
    ``torch.load`` refuses these types unless they are allow-listed, so ``resume`` would fail. None of them runs code when loaded.
    Call this function before each load, because OneDL's mmengine removes the types that it shares with this list after each of its
    own loads.
    """
    core = np._core if hasattr(np, '_core') else np.core
    numpy_types = [np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar]
    # Files written with NumPy 1 refer to these functions by their old module.
    numpy_types += [(function, f'numpy.core.multiarray.{function.__name__}') for function in numpy_types[2:]]
    numpy_types += [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')]
    stand_ins = [(_history_buffer_method, 'builtins.getattr'), (CommandLine, 'argparse.Namespace')]
    torch.serialization.add_safe_globals([HistoryBuffer, *stand_ins, *numpy_types])


class CommandLine:
    """The stand-in for ``argparse.Namespace`` in a checkpoint: attributes and nothing else."""


def _history_buffer_method(owner: object, name: str) -> object:
    """Replace ``getattr`` in a pickle, which stores HistoryBuffer's statistics as ``getattr(HistoryBuffer, 'mean')``."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported: getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(HistoryBuffer, name)
