"""Timing of the backends on GPUs, which differ too much for one formula to predict the fastest backend.

Choices are kept in memory. With the environment variable ``MMPELK_AUTOTUNE_FILE``, they are also kept in that file, and later processes
reuse them. The file has an entry for each type of GPU and each version of torch and mmpelk, so that machines can share it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.files import write_atomically
from mmpelk.version import __version__

from .layout import memory_format

FILE = 'MMPELK_AUTOTUNE_FILE'
# Training on images of many sizes must not time the backends again and again. After this many classes of sizes for one kernel, the
# choice of the nearest class is reused.
MAX_CLASSES = 8
_FASTEST: dict[str, dict[tuple[int, ...], str]] = {}  # by kernel, and then by class of sizes
_read: set[str] = set()  # the files that _FASTEST includes
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
    candidates: Mapping[str, ModuleType], input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool
) -> ModuleType:
    """Return the fastest of ``candidates`` on maps of the input's size.

    The candidates are timed on the first call for a class of sizes (:func:`size_class`), and the result is reused for the class. Where
    ``may_measure`` returns False, the first candidate is returned. An error of one candidate excludes it; if all fail, the first error
    is raised.

    Args:
        candidates: Backends by name, in order of preference.
        input: (N, C, H, W). Memory layouts are timed separately.
        rows, columns: Cell sizes of the kernel, cropped to the map.
        backward: Whether to time the gradient of the weight instead of the convolution.

    Raises:
        InputError: If the file of choices cannot be read.
    """
    first = next(iter(candidates.values()))
    if len(candidates) == 1 or not input.numel() or torch.are_deterministic_algorithms_enabled():
        return first
    with _LOCK:
        kernel, size = _kernel_key(input, rows, columns, backward), size_class(tuple(input.shape))
        _read_file()
        choices = {key: name for key, name in _FASTEST.get(kernel, {}).items() if name in candidates}
        if size not in choices and len(choices) >= MAX_CLASSES:
            size = min(choices, key=lambda other: math.dist(size, other))
        if size not in choices:
            if not may_measure(input.device):
                return first
            choices[size] = _measure(candidates, input.detach(), rows, columns, backward)
            _FASTEST.setdefault(kernel, {})[size] = choices[size]
            _write_file()
        return candidates[choices[size]]


def size_class(shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return the class of (N, C, H, W): one number for N x C, and one for H x W, each within a factor of four."""
    n, c, h, w = shape
    return (n * c).bit_length() // 2, (h * w).bit_length() // 2


def _kernel_key(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> str:
    """Describe what the choice depends on except for the size of the map. Kernel sizes are within a factor of two."""
    layout = str(memory_format(input)).removeprefix('torch.')
    name = torch.cuda.get_device_name(input.device) if input.device.type == 'cuda' else str(input.device)
    cells = f'{len(rows)}x{len(columns)} cells of {sum(rows).bit_length()}x{sum(columns).bit_length()} bits'
    what = 'gradient of the weight' if backward else 'convolution'
    return f'{name}, torch {torch.__version__}, mmpelk {__version__}, {input.dtype}, {layout}, {what}, {cells}'


def _measure(candidates: Mapping[str, ModuleType], x: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> str:
    # No random numbers are drawn, so that seeded training does not depend on what is measured.
    weight = torch.ones(x.shape[1], 1, len(rows), len(columns), device=x.device, dtype=x.dtype)
    # A backend that cannot write in this layout copies its result, which counts.
    out = torch.empty_like(x, memory_format=memory_format(x))
    # Backends can share a function, which is timed once.
    functions: dict[Callable, str] = {}
    for name, backend in candidates.items():
        functions.setdefault(backend.weight_grad if backward else backend.forward, name)
    times, errors = {}, []
    for function, name in functions.items():
        arguments = (x, x, rows, columns) if backward else (x, weight, None, rows, columns, out)

        def call(function: Callable = function, arguments: tuple = arguments) -> None:
            function(*arguments)

        try:
            times[name] = _seconds(call, x.device)
        except Exception as error:  # such as no memory, or a shape that a library does not support: use another backend
            errors.append(error.with_traceback(None))  # the traceback would keep the candidate's memory
    if not times:
        raise errors[0]
    return min(times, key=times.__getitem__)


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


def _read_file() -> None:
    """Add the choices in the file to those in memory, once for each file."""
    path = os.environ.get(FILE)
    if not path or path in _read:
        return
    if Path(path).exists():
        for kernel, choices in _stored(Path(path)).items():
            _FASTEST[kernel] = choices | _FASTEST.get(kernel, {})
    _read.add(path)


def _write_file() -> None:
    """Write all choices to the file, with those that other processes have added."""
    if not (path := os.environ.get(FILE)):
        return
    merged = _stored(Path(path)) if Path(path).exists() else {}
    for kernel, choices in _FASTEST.items():
        merged[kernel] = merged.get(kernel, {}) | choices
    text = {kernel: {' '.join(map(str, size)): name for size, name in choices.items()} for kernel, choices in merged.items()}
    write_atomically((json.dumps(text, indent=1, sort_keys=True) + '\n').encode(), path)


def _stored(path: Path) -> dict[str, dict[tuple[int, ...], str]]:
    try:
        return {
            kernel: {tuple(map(int, size.split())): str(name) for size, name in choices.items()}
            for kernel, choices in json.loads(path.read_text()).items()
        }
    except (ValueError, AttributeError) as error:
        raise InputError(
            f'{FILE}={path} is not a file of choices of mmpelk ({first_line(error)}); remove it, or name another file'
        ) from error
