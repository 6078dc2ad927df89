"""The ways to evaluate a depthwise convolution, in one table.

A backend is a module with these functions; a new one is a new file and a new row of ``BACKENDS``. Kernels come as a (C, 1, len(rows),
len(columns)) weight and the sizes of the cells it spreads over, symmetric, cropped to the map.

- ``unavailable(device, dtype)`` says why it cannot run there; None: it can.
- ``cost(input, rows, columns, backward)`` predicts its time, of the forward or of the backward pass. On GPUs it is measured instead.
- ``forward(input, weight, bias, rows, columns)`` computes (N, C, H, W).
- ``backward(grad, input, weight, rows, columns, needs)`` computes the gradients of input and weight, None where not needed.
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
    """Names of the backends that can run on ``device`` with inputs of ``dtype``."""
    return tuple(name for name, backend in BACKENDS.items() if backend.unavailable(torch.device(device), dtype) is None)


def describe_backends(device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """For each backend 'available', with what it would use, or the reason why it is not."""
    lines = {}
    for name, backend in BACKENDS.items():
        reason = backend.unavailable(torch.device(device), dtype)
        lines[name] = f'unavailable: {reason}' if reason else f'available{backend.details()}'
    return lines


def check_backend_name(name: str) -> None:
    """Raise ValueError unless ``name`` is 'auto' or a backend."""
    if name not in ('auto', *BACKENDS):
        raise ValueError(f'backend must be one of {("auto", *BACKENDS)}, got {name!r}')


def choose_backend(name: str, input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool = False) -> ModuleType:
    """The backend called ``name``; for 'auto', the available one that predicts the least time; on GPUs the one measured fastest
    (``measured.py``).

    Args:
        name: 'auto' or a key of ``BACKENDS``.
        input: (N, C, H, W).
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether the backward pass is to be computed.

    Raises:
        ValueError: If the name is unknown, or (an InputError) the named backend cannot run on the input. It is never replaced by
            another.
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
