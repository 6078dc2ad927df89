"""Read checkpoints with mmengine's types safely with torch before 2.6.

Before torch 2.6, ``weights_only=True`` cannot be extended with types that set their own state. Instead, ``torch.load`` uses this module
as its ``pickle_module``. It executes only the instructions that torch's own restricted unpickler executes, and builds only torch's types
and the stand-ins for mmengine's types.
"""

from __future__ import annotations

import pickle
from _codecs import encode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from functools import cache
from typing import Any

import torch
from torch import _weights_only_unpickler as torch_unpickler

from .safe_types import STAND_INS

INSTRUCTIONS = (
    'PROTO GLOBAL REDUCE NEWOBJ BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE NEWTRUE '
    'EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID BINGET '
    'LONG_BINGET BINPUT LONG_BINPUT LONG1 STOP'
)
# torch's functions that rebuild tensors and parameters from storages.
REBUILD = (
    '_rebuild_parameter_with_state',
    '_rebuild_qtensor',
    '_rebuild_tensor_v3',
    '_rebuild_nested_tensor',
    '_rebuild_wrapper_subclass',
    '_rebuild_device_tensor_from_numpy',
    '_rebuild_device_tensor_from_cpu_tensor',
)


@cache
def allowed_types() -> dict[str, Any]:
    """Return the classes and functions that a checkpoint may name, by the names in the pickle."""
    # torch 2.6 allows all of these, and older versions some of them.
    names = {
        'collections.Counter': Counter,
        'torch.device': torch.device,
        '_codecs.encode': encode,  # for bytes
        **{f'builtins.{type.__name__}': type for type in (bytearray, complex, set)},
        **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
        **{f'torch._utils.{name}': getattr(torch._utils, name) for name in REBUILD if hasattr(torch._utils, name)},
    }
    return {**names, **torch_unpickler._get_allowed_globals(), **STAND_INS}


def load(file: Any, **options: Any) -> Any:
    """Read one object from a binary file object. The options are those of ``pickle.load``."""
    return Unpickler(file, **options).load()


# The base class is the Python implementation, because the C one does not let a subclass check single instructions.
class Unpickler(pickle._Unpickler):
    """Read an object of the allowed types.

    Raises:
        pickle.UnpicklingError: If the pickle contains anything else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function that a pickle names. Names of Python 2, which Python 3 also writes, are translated."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        try:
            return allowed_types()[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}') from None

    def load_reduce(self) -> None:
        self._check_allowed(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._check_allowed(self.stack[-2])
        super().load_newobj()

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if type(built) is OrderedDict:
            built.__dict__.update(state)
        else:
            self._check_allowed(type(built))
            type(built).__setstate__(built, state)

    def load_append(self) -> None:
        self._check_filled(self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        self._check_filled(self.metastack[-1][-1], list)
        super().load_appends()

    def load_setitem(self) -> None:
        self._check_filled(self.stack[-3], dict, OrderedDict, Counter)
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_filled(self.metastack[-1][-1], dict, OrderedDict, Counter)
        super().load_setitems()

    def refuse(self) -> None:
        """Reject an instruction that torch's restricted unpickler does not execute either."""
        raise pickle.UnpicklingError('Unsupported operand')

    @staticmethod
    def _check_allowed(used: Any) -> None:
        if not any(used is allowed for allowed in allowed_types().values()):
            raise pickle.UnpicklingError(f'Unsupported: use of {used!r}')

    @staticmethod
    def _check_filled(filled: Any, *types: type) -> None:
        if type(filled) not in types:
            raise pickle.UnpicklingError(f'Unsupported: items in a {type(filled).__name__}')


Unpickler.dispatch = dict.fromkeys(range(256), Unpickler.refuse)
for _name in INSTRUCTIONS.split():
    _code = getattr(pickle, _name)[0]
    Unpickler.dispatch[_code] = getattr(Unpickler, pickle._Unpickler.dispatch[_code].__name__)
