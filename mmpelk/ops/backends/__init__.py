"""The backends that evaluate a depthwise convolution, and the choice among them.

A backend is a module with the functions below. To add a backend, add a module and an entry in ``BACKENDS``. A kernel is given as a
(C, 1, len(rows), len(columns)) weight and the sizes of the cells that share its entries. The cell sizes are symmetric and cropped to
the map.

- ``unavailable(device, dtype)`` returns the reason why the backend cannot run there, or None if it can.
- ``details()`` returns a description of what the backend uses, such as a version, or an empty string.
- ``cost(input, rows, columns, backward)`` predicts the time of the forward or the backward pass. On GPUs, the time is measured instead.
- ``forward(input, weight, bias, rows, columns)`` computes the output, (N, C, H, W).
- ``backward(grad, input, weight, rows, columns, needs)`` computes the gradients of input and weight, or None where not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from mmpelk.ops.autotune import fastest
from mmpelk.utils.errors import InputError

from . import dense, fft, native, triton

BACKENDS: dict[str, ModuleType] = {'dense': dense, 'fft': fft, 'native': native, 'triton': triton}


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


def check_backend_name(name: str) -> None:
    """Raise ValueError unless ``name`` is 'auto' or the name of a backend."""
    if name not in ('auto', *BACKENDS):
        raise ValueError(f'backend must be one of {("auto", *BACKENDS)}, got {name!r}')


def choose_backend(name: str, input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool = False) -> ModuleType:
    """Return the backend that computes a call.

    'auto' selects the available backend with the least predicted time. On GPUs, it selects the one measured to be fastest
    (``autotune.py``).

    Args:
        name: 'auto' or a key of ``BACKENDS``.
        input: (N, C, H, W).
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether the call is a backward pass.

    Raises:
        ValueError: If the name is unknown.
        InputError: If the named backend cannot run on the input. No other backend replaces it. InputError is a ValueError.
    """
    check_backend_name(name)
    if name == 'auto':
        candidates = [BACKENDS[n] for n in reversed(available_backends(input.device, input.dtype))]
        if input.device.type == 'cuda':
            return fastest(candidates, input, rows, columns, backward)
        return min(candidates, key=lambda backend: backend.cost(input, rows, columns, backward))
    if reason := BACKENDS[name].unavailable(input.device, input.dtype):
        available = available_backends(input.device, input.dtype)
        raise InputError(f'backend {name!r} cannot run on {input.device} with {input.dtype}: {reason}; available: {available}')
    return BACKENDS[name]
