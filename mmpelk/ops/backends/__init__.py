"""The backends that evaluate a depthwise convolution, and the choice among them.

A backend is a module with the functions below. To add a backend, add a module and an entry in ``BACKENDS``. A kernel is given as a
(C, 1, len(rows), len(columns)) weight and the sizes of the cells that share its entries. The cell sizes are symmetric and cropped to
the map.

- ``unavailable(device, dtype)`` returns the reason why the backend cannot run there, or None if it can.
- ``details()`` returns a description of what the backend uses, such as a version, or an empty string.
- ``cost(input, rows, columns, backward)`` predicts the time of ``forward``, or of ``weight_grad`` if ``backward``. On GPUs, the time is
  measured instead.
- ``forward(input, weight, bias, rows, columns, out=None)`` computes the output, (N, C, H, W), in the input's type. ``out`` may be any
  view of this shape and type, such as some channels of a larger map.
- ``MAX_CELLS``, if a backend has it, is the largest number of columns of cells that its ``forward`` takes.
- ``weight_grad(grad, input, rows, columns)`` computes the gradient of the weight in the input's type. The gradient of the input is
  ``forward`` with the kernel rotated by 180 degrees.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from mmpelk.ops.autotune import fastest
from mmpelk.ops.layout import memory_format
from mmpelk.utils.errors import InputError

from . import dense, fft, native, triton
from .triton import taps

BACKENDS: dict[str, ModuleType] = {'dense': dense, 'fft': fft, 'native': native, 'taps': taps, 'triton': triton}


class Call(NamedTuple):
    """What 'auto' chooses a backend for.

    Attributes:
        shape: (N, C, H, W) of the map.
        memory_format: Its memory layout.
        kernel_size: (kh, kw), cropped to the map.
        weight_size: Number of cells of the kernel along both axes, cropped to the map.
        weight_grad: Whether the call computes the gradient of the weight instead of the convolution.
    """

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    memory_format: torch.memory_format
    kernel_size: tuple[int, int]
    weight_size: tuple[int, int]
    weight_grad: bool


_CHOICES: dict[Call, str] = {}
MAX_CHOICES = 10_000  # images of many sizes must not fill the memory
_logger = logging.getLogger('mmpelk')


def available_backends(device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Return the names of the backends that can run on ``device`` with inputs of ``dtype``."""
    return tuple(name for name, backend in BACKENDS.items() if backend.unavailable(torch.device(device), dtype) is None)


def describe_backends(device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Return, for each backend, 'available' with details of what it uses, or the reason why it is unavailable."""
    lines = {}
    for name, backend in BACKENDS.items():
        reason = backend.unavailable(torch.device(device), dtype)
        lines[name] = f'unavailable: {reason}' if reason else f'available{backend.details()}'
    return lines


def chosen_backends() -> dict[Call, str]:
    """Return the names of the backends that 'auto' chose in this process.

    Each choice is also logged once, at level DEBUG of the logger 'mmpelk'.
    """
    return dict(_CHOICES)


def check_backend_name(name: str) -> None:
    """Raise ValueError unless ``name`` is 'auto' or the name of a backend."""
    if name not in ('auto', *BACKENDS):
        raise ValueError(f'backend must be one of {("auto", *BACKENDS)}, got {name!r}')


def accepts(name: str, columns: Sequence[int]) -> bool:
    """Return whether the ``forward`` of a backend accepts kernels with these columns of cells."""
    return len(columns) <= getattr(BACKENDS[name], 'MAX_CELLS', len(columns))


def choose_backend(name: str, input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool = False) -> ModuleType:
    """Return the backend that computes a call.

    'auto' selects the available backend with the least predicted time. On GPUs, it selects the one measured to be fastest
    (``autotune.py``).

    Args:
        name: 'auto' or a key of ``BACKENDS``.
        input: (N, C, H, W).
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether the call computes the gradient of the weight.

    Raises:
        ValueError: If the name is unknown.
        InputError: If the named backend cannot run on the input. No other backend replaces it. InputError is a ValueError.
    """
    check_backend_name(name)
    if name == 'auto':
        kernel_size, weight_size = (sum(rows), sum(columns)), (len(rows), len(columns))
        call = Call(input.device, input.dtype, tuple(input.shape), memory_format(input), kernel_size, weight_size, backward)
        measured = input.device.type == 'cuda'
        earlier = None if measured else _CHOICES.get(call)  # the predicted times would be the same
        if earlier and BACKENDS[earlier].unavailable(input.device, input.dtype) is None:
            return BACKENDS[earlier]
        available = reversed(available_backends(input.device, input.dtype))
        candidates = {name: BACKENDS[name] for name in available if backward or accepts(name, columns)}
        if measured:
            chosen = fastest(candidates, input, rows, columns, backward)
        else:
            chosen = min(candidates.values(), key=lambda backend: backend.cost(input, rows, columns, backward))
        _record(call, chosen)
        return chosen
    if reason := BACKENDS[name].unavailable(input.device, input.dtype):
        available = available_backends(input.device, input.dtype)
        raise InputError(f'backend {name!r} cannot run on {input.device} with {input.dtype}: {reason}; available: {available}')
    return BACKENDS[name]


def _record(call: Call, chosen: ModuleType) -> None:
    name = chosen.__name__.rpartition('.')[2]
    if _CHOICES.get(call) == name:
        return
    if len(_CHOICES) >= MAX_CHOICES:
        _CHOICES.clear()
    _CHOICES[call] = name
    _logger.debug("'auto' chose %s for %s", name, call)
