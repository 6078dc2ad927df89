"""The structured evaluation in C++, on CPUs: the cost of a peripheral kernel is close to that of a k' x k' kernel.

The C++ sources are beside this file. The library is optional: pip builds it if it finds a C++ compiler. It has a C interface and is
built without torch, so one build works with every version of torch and Python. It computes in float32.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mmpelk.ops.layout import memory_format

INSTRUCTION_SET = 'MMPELK_INSTRUCTION_SET'
FOLDER = Path(__file__).parent
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can."""
    if device.type != 'cpu':
        return 'it runs only on CPUs'
    if dtype not in TYPES:
        return f'it computes in float32, which would round {dtype}'
    if _library() is None:
        return (
            f'{FOLDER} contains no compiled library; reinstall mmpelk where pip finds g++ or clang++ '
            '(pip install -v shows the output of the compiler)'
        )
    chosen = os.environ.get(INSTRUCTION_SET)
    if chosen and chosen not in instruction_sets():
        return f'the environment variable {INSTRUCTION_SET} is {chosen!r}, but this machine has {instruction_sets()}'
    return None


def details() -> str:
    """Return the instruction set in use."""
    return f' ({_instruction_set()})'


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

    Fitted like :func:`fft.cost`.
    """
    taps = len(rows) * (len(columns) + (max(columns) > 1))
    positions = input.numel() // max(1, input.shape[1]) * (-(-input.shape[1] // 16) * 16)
    return 60 + 2.8e-5 * positions * (taps + 20) if backward else 25 + 1.2e-5 * positions * (taps + 60)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation. Without ``out``, the result has the type and memory format of the input."""
    direct = out is not None and out.dtype == torch.float32
    x, output = _readable(input), out if direct else _like(input)
    bias = None if bias is None else bias.float().contiguous()
    _run_forward(x, weight, bias, output, rows, columns, False)
    if out is None:
        return output.to(input.dtype)
    return out if direct else out.copy_(output)


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight."""
    up, x = _readable(grad), _readable(input)
    grad_weight = torch.empty(input.shape[1], 1, len(rows), len(columns))
    status = _library().mmpelk_weight_grad(
        _instruction_set().encode(), torch.get_num_threads(), _ints(x.shape), x.data_ptr(), _strides(x), up.data_ptr(),
        _strides(up), grad_weight.data_ptr(), _ints(rows), len(rows), _ints(columns), len(columns),
    )  # fmt: skip
    _check(status)
    return grad_weight.to(input.dtype)


def _run_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, rows: Sequence[int], columns: Sequence[int], flip: bool
) -> None:
    weight = weight.float().contiguous()
    status = _library().mmpelk_forward(
        _instruction_set().encode(), torch.get_num_threads(), _ints(x.shape), x.data_ptr(), _strides(x), weight.data_ptr(),
        None if bias is None else bias.data_ptr(), output.data_ptr(), _strides(output), _ints(rows), len(rows), _ints(columns),
        len(columns), flip,
    )  # fmt: skip
    _check(status)


@cache
def _library() -> ctypes.CDLL | None:
    files = [path for path in FOLDER.glob('_native.*') if path.suffix in ('.so', '.dylib')]
    if not files:
        return None
    library = ctypes.CDLL(str(files[0]))
    pointer, number, numbers = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
    strides = ctypes.POINTER(ctypes.c_int64)
    cells = (numbers, number, numbers, number)
    library.mmpelk_instruction_set.argtypes = (number,)
    library.mmpelk_instruction_set.restype = ctypes.c_char_p
    start = (ctypes.c_char_p, number, numbers, pointer, strides, pointer)
    library.mmpelk_forward.argtypes = (*start, pointer, pointer, strides, *cells, number)
    library.mmpelk_weight_grad.argtypes = (*start, strides, pointer, *cells)
    return library


def _instruction_set() -> str:
    return os.environ.get(INSTRUCTION_SET) or instruction_sets()[0]


def _readable(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 with its channels or its columns adjacent in memory."""
    tensor = tensor.float()
    strides = tensor.stride()
    return tensor if 1 in (strides[1], strides[3]) else tensor.contiguous()


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, dtype=torch.float32, memory_format=memory_format(tensor))


def _ints(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int * len(values))(*values)


def _strides(tensor: Tensor) -> ctypes.Array:
    return (ctypes.c_int64 * 4)(*tensor.stride())


def _check(status: int) -> None:
    if status == 1:
        raise MemoryError('the native backend could not allocate memory for its row sums')
    if status:
        raise RuntimeError(f'the native backend has no instruction set {_instruction_set()!r} on this machine')
