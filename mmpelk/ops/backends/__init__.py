"""The ways to evaluate a depthwise convolution, in one table.

A backend is a module with three functions: ``unavailable(device)`` says why it cannot run there (None: it can),
``cost(input, kernel)`` predicts its time, and ``run(input, kernel)`` computes. A new backend is a new file and a new row of
``BACKENDS``.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from mmpelk.errors import InputError

from . import dense, fft

BACKENDS: dict[str, ModuleType] = {'dense': dense, 'fft': fft}


def available_backends(device: torch.device | str = 'cpu') -> tuple[str, ...]:
    """Names of the backends that can run on ``device``."""
    return tuple(name for name, backend in BACKENDS.items() if backend.unavailable(torch.device(device)) is None)


def check_backend_name(name: str) -> None:
    """Raise ValueError unless ``name`` is 'auto' or a backend."""
    if name not in ('auto', *BACKENDS):
        raise ValueError(f'backend must be one of {("auto", *BACKENDS)}, got {name!r}')


def choose_backend(name: str, input: Tensor, kernel: Tensor) -> ModuleType:
    """The backend called ``name``; for 'auto', the available one that predicts the least time.

    Args:
        name: 'auto' or a key of ``BACKENDS``.
        input: (N, C, H, W).
        kernel: (C, 1, kh, kw), cropped to the map.

    Raises:
        ValueError: If the name is unknown, or (an InputError) the named backend cannot run on the input's device. It is never
            replaced by another.
    """
    check_backend_name(name)
    device = input.device
    if name == 'auto':
        return min((BACKENDS[n] for n in available_backends(device)), key=lambda backend: backend.cost(input, kernel))
    reason = BACKENDS[name].unavailable(device)
    if reason is not None:
        raise InputError(f'backend {name!r} cannot run on {device}: {reason}; available here: {available_backends(device)}')
    return BACKENDS[name]
