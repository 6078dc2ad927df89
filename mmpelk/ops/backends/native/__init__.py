"""The structured evaluation in C++, on CPUs: the cost of a peripheral kernel is close to that of a k' x k' kernel.

The C++ sources are beside this file. The library is optional: pip builds it if it finds a C++ compiler. It has a C interface and
is built without torch, so one build works with every version of torch and Python. It computes in float32.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmpelk.ops.layout import memory_format

INSTRUCTION_SET = 'MMPELK_INSTRUCTION_SET'
FOLDER = Path(__file__).parent
TYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERFACE_VERSION = 2  # as in native.cpp
REINSTALL = 'reinstall mmpelk where pip finds g++ or clang++ (pip install -v shows the output of the compiler)'


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can."""
    if device.type != 'cpu':
        return 'it runs only on CPUs'
    if dtype not in TYPES:
        return f'it computes in float32, which would round {dtype}'
    if _load().library is None:
        return _load().reason
    chosen = os.environ.get(INSTRUCTION_SET)
    if chosen and chosen not in instruction_sets():
        return f'the environment variable {INSTRUCTION_SET} is {chosen!r}, but this machine has {instruction_sets()}'
    return None


def details() -> str:
    """Return the instruction set in use and the name of the library."""
    return f' ({_instruction_set()}, {_load().path.name})'


@cache
def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this machine has and the library is compiled for, fastest first.

    The first is used by default. The environment variable MMPELK_INSTRUCTION_SET selects another.
    """
    names = []
    while name := _library().mmpelk_instruction_set(len(names)):
        names.append(name.decode())
    return tuple(names)


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Predict the time in microseconds: an overhead, a constant per tap and position, and a constant per position.

    The constants of the forward pass are fitted like those of :func:`fft.cost`. The weight's gradient takes 1.3 times as long: the
    median of the ratios of 18 maps from 7x7 to 128x128 and kernels from 5 to 101, in processor time of one thread, with AVX2 on an
    AMD EPYC on 2026-11-24.
    """
    taps = len(rows) * (len(columns) + (max(columns) > 1))
    positions = input.numel() // max(1, input.shape[1]) * (-(-input.shape[1] // 16) * 16)
    return 35 + 1.6e-5 * positions * (taps + 60) if backward else 25 + 1.2e-5 * positions * (taps + 60)


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Sequence[int],
    columns: Sequence[int],
    out: Tensor | None = None,
) -> Tensor:
    """Compute the depthwise 'same' correlation.

    Args:
        out: Where to write the result, with any strides, such as a slice of the channels of a larger map. It must not overlap
            the input.

    Returns:
        ``out``, or a tensor with the type and memory format of the input.
    """
    x, weight = input.float(), weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    direct = out is not None and out.dtype == torch.float32
    output = out if direct else torch.empty_like(x, memory_format=memory_format(input))
    status = _library().mmpelk_forward(
        _instruction_set().encode(), torch.get_num_threads(), _int64s(x.shape), x.data_ptr(), _int64s(x.stride()),
        weight.data_ptr(), None if bias is None else bias.data_ptr(), output.data_ptr(), _int64s(output.stride()),
        _int64s(rows), len(rows), _int64s(columns), len(columns),
    )  # fmt: skip
    _check(status, x, rows, columns)
    if out is None:
        return output.to(input.dtype)
    return out if direct else out.copy_(output)


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight, (C, 1, len(rows), len(columns)), from that of the output. It has the input's type."""
    x, up = input.float(), grad.float()
    result = torch.empty(x.shape[1], 1, len(rows), len(columns))
    status = _library().mmpelk_weight_grad(
        _instruction_set().encode(), torch.get_num_threads(), _int64s(x.shape), x.data_ptr(), _int64s(x.stride()), up.data_ptr(),
        _int64s(up.stride()), result.data_ptr(), _int64s(rows), len(rows), _int64s(columns), len(columns),
    )  # fmt: skip
    _check(status, x, rows, columns)
    return result.to(input.dtype)


class _Loaded(NamedTuple):
    """The library and its file, or the reason why there is none."""

    library: ctypes.CDLL | None = None
    path: Path | None = None
    reason: str | None = None


@cache
def _load() -> _Loaded:
    """Load the first file that can be used. An unusable file, such as that of an older version, does not hide a usable one."""
    problems = []
    for path in _candidates():
        try:
            return _Loaded(_declare(_open(path)), path)
        except (OSError, ValueError) as error:
            text = ' '.join(str(error).split()).removeprefix(f'{path}: ')
            problems.append(f'{path.name}: {text}')
    if problems:
        return _Loaded(reason=f'{FOLDER} contains no usable library ({"; ".join(problems)}); {REINSTALL}')
    return _Loaded(reason=f'{FOLDER} contains no compiled library; {REINSTALL}')


def _candidates() -> list[Path]:
    """Return the library's files, this interpreter's first. A file of another interpreter works too: it does not use Python."""
    order = [f'_native{suffix}' for suffix in EXTENSION_SUFFIXES]
    files = [path for path in FOLDER.glob('_native.*') if path.suffix in ('.so', '.dylib')]
    return sorted(files, key=lambda path: (order.index(path.name) if path.name in order else len(order), path.name))


def _open(path: Path) -> ctypes.CDLL:
    if _truncated(path):
        raise OSError('the file is truncated')
    return ctypes.CDLL(str(path))


def _truncated(path: Path) -> bool:
    """Return whether an ELF file ends before its section headers. Loading such a file could kill the process (SIGBUS)."""
    with path.open('rb') as file:
        header = file.read(64)
    if len(header) < 64 or header[:5] != b'\x7fELF\x02':
        return False  # the loader reports an error for these, if it is one
    order = 'big' if header[5] == 2 else 'little'
    start, size, count = (int.from_bytes(header[part], order) for part in (slice(40, 48), slice(58, 60), slice(60, 62)))
    return path.stat().st_size < start + size * count


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of the library's functions.

    Raises:
        ValueError: If the library has another interface.
    """
    version = library.mmpelk_version() if hasattr(library, 'mmpelk_version') else None
    if version != INTERFACE_VERSION:
        raise ValueError(f'its interface has version {version}, but this mmpelk needs {INTERFACE_VERSION}')
    pointer, number, size, sizes = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    start = (ctypes.c_char_p, number, sizes, pointer, sizes, pointer)
    cells = (sizes, size, sizes, size)
    library.mmpelk_instruction_set.argtypes = (number,)
    library.mmpelk_instruction_set.restype = ctypes.c_char_p
    library.mmpelk_forward.argtypes = (*start, pointer, pointer, sizes, *cells)
    library.mmpelk_weight_grad.argtypes = (*start, sizes, pointer, *cells)
    return library


def _library() -> ctypes.CDLL:
    library = _load().library
    if library is None:
        raise RuntimeError(_load().reason)
    return library


def _instruction_set() -> str:
    return os.environ.get(INSTRUCTION_SET) or instruction_sets()[0]


def _int64s(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def _check(status: int, x: Tensor, rows: Sequence[int], columns: Sequence[int]) -> None:
    """Raise the exception that belongs to a status of the C interface."""
    if status == 1:
        raise MemoryError('the native backend could not allocate its temporary memory')
    if status == 2:
        raise RuntimeError(f'the native backend has no instruction set {_instruction_set()!r} on this machine')
    if status == 3:
        raise ValueError(
            'the native backend needs a nonempty map and symmetric cells of an odd sum of at most 2 H - 1 and 2 W - 1, '
            f'got the shape {tuple(x.shape)} and the cells {list(rows)} and {list(columns)}'
        )
    if status:
        raise RuntimeError(f'the native backend failed with the unexpected status {status}')
