"""On GPUs the fastest backend is measured, not predicted: they differ too much for one formula."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

_FASTEST: dict[tuple, ModuleType] = {}


def may_measure(device: torch.device) -> bool:
    """Whether calls may be timed there: only on GPUs, not while a CUDA graph is captured, and not under
    ``torch.use_deterministic_algorithms``, where each run must choose alike."""
    if device.type != 'cuda' or torch.are_deterministic_algorithms_enabled():
        return False
    return not torch.cuda.is_current_stream_capturing()


def fastest(
    candidates: Sequence[ModuleType], input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool
) -> ModuleType:
    """The fastest of ``candidates`` on maps of the input's size, timed on the first call and remembered for sizes within a factor of
    two; the first of them where ``may_measure`` says no.

    Args:
        candidates: Backends, in the order of preference.
        input: (N, C, H, W).
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether to time the backward pass.
    """
    n, c, h, w = (size.bit_length() for size in input.shape)
    key = (input.device, input.dtype, tuple(rows), tuple(columns), backward, n, c, h, w)
    if key in _FASTEST:
        return _FASTEST[key]
    if not may_measure(input.device) or len(candidates) == 1 or not input.numel():
        return candidates[0]
    x = torch.randn_like(input)
    weight = torch.randn(input.shape[1], 1, len(rows), len(columns), device=input.device)
    times = []
    for backend in candidates:

        def call(backend: ModuleType = backend) -> None:
            if backward:
                backend.backward(x, x, weight, rows, columns, (True, True))
            else:
                backend.forward(x, weight, None, rows, columns)

        try:
            times.append(_seconds(call, input.device))
        except torch.OutOfMemoryError:
            times.append(math.inf)
    _FASTEST[key] = candidates[times.index(min(times))]
    return _FASTEST[key]


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """The least of three calls, after one to warm up."""
    times = []
    for _ in range(4):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
