"""Timing of the backends on GPUs, which differ too much for one formula to predict the fastest backend."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

_FASTEST: dict[tuple, ModuleType] = {}
_LOCK = threading.Lock()  # threads that measure at the same time would distort each other's times


def may_measure(device: torch.device) -> bool:
    """Return whether calls on ``device`` may be timed.

    They may be timed only on GPUs, not while a CUDA graph is captured, and not under ``torch.use_deterministic_algorithms``, where
    every run must make the same choice.
    """
    if device.type != 'cuda' or torch.are_deterministic_algorithms_enabled():
        return False
    return not torch.cuda.is_current_stream_capturing()


def fastest(
    candidates: Sequence[ModuleType], input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool
) -> ModuleType:
    """Return the fastest of ``candidates`` on maps of the input's size.

    The candidates are timed on the first call, and the result is reused for sizes within a factor of two. Where ``may_measure``
    returns False, the first candidate is returned. An error of one candidate excludes it; if all fail, the first error is raised.

    Args:
        candidates: Backends in order of preference.
        input: (N, C, H, W).
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether to time the gradient of the weight instead of the convolution.
    """
    if len(candidates) == 1 or not input.numel() or torch.are_deterministic_algorithms_enabled():
        return candidates[0]
    sizes = (*input.shape, sum(rows), sum(columns))
    key = (input.device, input.dtype, backward, len(rows), len(columns), *(size.bit_length() for size in sizes))
    with _LOCK:
        if key not in _FASTEST:
            if not may_measure(input.device):
                return candidates[0]
            _FASTEST[key] = _measure(candidates, input.detach(), rows, columns, backward)
        return _FASTEST[key]


def _measure(
    candidates: Sequence[ModuleType], x: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool
) -> ModuleType:
    # No random numbers are drawn, so that seeded training does not depend on what is measured.
    weight = torch.ones(x.shape[1], 1, len(rows), len(columns), device=x.device)
    times, errors = [], []
    for backend in candidates:

        def call(backend: ModuleType = backend) -> None:
            if backward:
                backend.weight_grad(x, x, rows, columns)
            else:
                backend.forward(x, weight, None, rows, columns)

        try:
            times.append(_seconds(call, x.device))
        except Exception as error:  # such as no memory, or a shape that a library does not support: use another backend
            times.append(math.inf)
            errors.append(error)
    if len(errors) == len(candidates):
        raise errors[0]
    return candidates[times.index(min(times))]


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """Return the shortest time of three calls, after one warm-up call."""
    times = []
    for _ in range(4):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
