"""Allow mmengine's types in checkpoints that are read with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

try:
    from numpy._core import multiarray
except ImportError:  # NumPy before 1.26
    from numpy.core import multiarray

from mmpelk.utils.torch_compat import TORCH

# Since this version, torch can allow types by the names that they have in a pickle.
CAN_ALLOW_TYPES = TORCH >= (2, 6)
# NumPy's codes of booleans, integers, and floating-point and complex numbers. Other types can contain pointers.
PLAIN_NUMBERS = re.compile(r'b1|[iu][1248]|f[248]|c8|c16')


def allow_mmengine_types() -> None:
    """Allow ``torch.load(weights_only=True)`` to read the types that mmengine saves in checkpoints, for the rest of this process.

    mmengine saves its message hub with each checkpoint: HistoryBuffer objects, which contain NumPy arrays. Since torch 2.6,
    ``torch.load`` refuses these types unless they are allow-listed, so ``resume`` would fail. Importing mmpelk calls this function.
    Before torch 2.6, ``torch.load`` has no such list and reads with ``weights_only=False`` by default, so this function does nothing.
    mmpelk itself reads checkpoints more strictly; see :func:`mmengine_types`.
    """
    if not CAN_ALLOW_TYPES:
        return
    # NumPy 1 and NumPy 2 write different names.
    modules = 'numpy.core.multiarray', 'numpy._core.multiarray'
    functions = multiarray._reconstruct, multiarray.scalar
    numpy_types = [
        np.ndarray,
        np.dtype,
        *((function, f'{name}.{function.__name__}') for function in functions for name in modules),
    ]
    numpy_types += [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')]
    torch.serialization.add_safe_globals([HistoryBuffer, (_history_buffer_method, 'builtins.getattr'), *numpy_types])


@contextlib.contextmanager
def mmengine_types() -> Iterator[None]:
    """Allow ``torch.load(weights_only=True)`` to read mmengine's types through stand-ins until the context ends.

    NumPy's own functions would build any type of array that a file describes, including arrays of pointers that crash the process.
    Stand-ins with the same names replace them, and build only arrays of plain numbers. This needs torch 2.6. With older versions,
    :mod:`mmpelk.checkpoints.restricted_pickle` uses the stand-ins.
    """
    before = torch.serialization.get_safe_globals()
    others = [item for item in before if _name(item) not in STAND_INS]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, *((stand_in, name) for name, stand_in in STAND_INS.items())])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _name(item: object) -> str:
    """Return the name in a pickle that an item of torch's allow-list stands for."""
    return item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}'


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'Unsupported: {what} in a checkpoint')


class CommandLine:
    """The stand-in for ``argparse.Namespace`` in a checkpoint: attributes and nothing else."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)


class _Dtype:
    """The stand-in for ``numpy.dtype``, which accepts plain numbers only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not PLAIN_NUMBERS.fullmatch(code):
            raise _refused(f'dtype {code!r}')
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        version, order, *others = state
        # These are the subarray, the names, the fields, the item size, the alignment, and the flags.
        if version != 3 or order not in ('<', '>', '=', '|') or others != [None, None, None, -1, -1, 0]:
            raise _refused(f'dtype {self.value} with fields or a subarray')
        self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """The stand-in for ``numpy.ndarray``. It is saved as an ``ndarray`` again."""

    def __new__(cls, *args: object) -> _Array:
        raise _refused('a call of numpy.ndarray')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise _refused('an array of anything but numbers')
        super().__setstate__((1, shape, dtype.value, is_fortran, content))

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    """Replace NumPy's function that creates the empty array whose content follows in the pickle."""
    if kind is not _Array:
        raise _refused(f'an array of type {kind!r}')
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(dtype: _Dtype, content: bytes) -> np.generic:
    """Replace NumPy's function that creates a scalar."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or len(content) != dtype.value.itemsize:
        raise _refused('a scalar that is not a number')
    return np.frombuffer(content, dtype.value)[0]


class _History(HistoryBuffer):
    """The stand-in for HistoryBuffer. It becomes a HistoryBuffer once its content has been checked."""

    def __setstate__(self, state: dict) -> None:
        logs, counts = state['_log_history'], state['_count_history']
        if not isinstance(logs, _Array) or not isinstance(counts, _Array) or logs.ndim != 1 or logs.shape != counts.shape:
            raise _refused('a HistoryBuffer without two lists of numbers')
        # The statistics in the file are HistoryBuffer's own methods, which the constructor sets.
        HistoryBuffer.__init__(self, logs, counts, int(state['max_length']))
        self.__class__ = HistoryBuffer


def _history_buffer_method(owner: object, name: str) -> object:
    """Replace ``getattr`` in a pickle, which stores HistoryBuffer's statistics as ``getattr(HistoryBuffer, 'mean')``."""
    if owner not in (HistoryBuffer, _History) or not isinstance(name, str) or name.startswith('_'):
        raise _refused(f'getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


STAND_INS = {
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'builtins.getattr': _history_buffer_method,
    'argparse.Namespace': CommandLine,
    'numpy.ndarray': _Array,
    'numpy.dtype': _Dtype,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray.scalar': _scalar,
    # The names that NumPy 1 writes.
    'numpy.core.multiarray._reconstruct': _reconstruct,
    'numpy.core.multiarray.scalar': _scalar,
}
