"""The structured evaluation on the tensor cores of GPUs (``kernels.py``).

Triton comes with torch's CUDA builds and is imported on first use. A float32 product is computed as three tf32 products, which keeps
its accuracy. Half types are multiplied without conversion. All sums are float32.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from mmpelk.ops.autotune import may_measure
from mmpelk.ops.cells import expand
from mmpelk.utils.errors import first_line

TYPES = (torch.float32, torch.bfloat16, torch.float16)
_FAILURES: dict[tuple[torch.device, torch.dtype], str | None] = {}
_LOCK = threading.Lock()  # Triton's autotuner stores the arguments of a call in itself
# (rows, warps) of a program. Triton times them once for each class of sizes. The first is used where timing is not allowed.
BLOCKS = ((64, 4), (128, 8), (32, 4))


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can."""
    if dtype not in TYPES:
        return f'it computes in float32, which would round {dtype}'
    if device.type != 'cuda' and not (device.type == 'cpu' and os.environ.get('TRITON_INTERPRET') == '1'):
        return "it runs only on GPUs (and for tests on CPUs, in Triton's interpreter, with TRITON_INTERPRET=1)"
    return _failure(device, dtype)


def _failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """Compile both kernels and run them on a map of one position. Return the error, or None if both work.

    Typical errors are a missing Triton, an incompatible version of Triton, and a GPU that is too old.
    """
    if (device, dtype) in _FAILURES:
        return _FAILURES[device, dtype]
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        return 'it was not tested before the capture of this CUDA graph began'
    failure = None
    try:
        import triton

        if triton.__version__.startswith('2.'):
            _FAILURES[device, dtype] = f'Triton {triton.__version__} is too old; the kernels need Triton 3 or newer'
            return _FAILURES[device, dtype]
        x = torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
        _correlate(x, x, None, (1,), (1,), tune=False)
        _weight_grad(x, x, (1,), (1,), tune=False).item()
    except torch.cuda.OutOfMemoryError as error:
        return f'{device} has no memory left ({first_line(error)})'  # this can change, so it is not stored
    except ImportError as error:
        failure = f'Triton cannot be imported ({error})'
    except Exception as error:  # any error: use another backend
        failure = f'Triton {triton.__version__} cannot run its kernels on {device} ({type(error).__name__}: {first_line(error)})'
    _FAILURES[device, dtype] = failure
    return failure


def details() -> str:
    """Return the version of Triton."""
    import triton

    return f' (Triton {triton.__version__})'


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Return infinity. Times are predicted only on CPUs, where Triton is interpreted and never the fastest."""
    return math.inf


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation in the input's type. Without ``out``, the result is contiguous."""
    output = _correlate(input.contiguous(), weight, bias, rows, columns, may_measure(input.device))
    return output if out is None else out.copy_(output)


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight."""
    up = grad.to(input.dtype).contiguous()
    return _weight_grad(input.contiguous(), up, rows, columns, may_measure(input.device)).to(input.dtype)


def _correlate(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], tune: bool) -> Tensor:
    n, c, h, w = x.shape
    y = torch.empty_like(x)
    if n == 0:
        return y
    tops, sizes = _starts_and_sizes(tuple(rows), x.device, -(sum(rows) // 2))
    # The kernel averages over the rows of a cell, so the weight is multiplied by their number.
    taps = (expand(weight, (1,) * len(rows), columns) * sizes[:, None]).to(x.dtype).contiguous()
    bias = x if bias is None else bias.float().contiguous()  # without a bias, any pointer: HAS_BIAS is False and nothing reads it
    width, sources = _block_columns(w, x.dtype)

    def grid(block: dict) -> tuple[int]:
        return (c * -(-n * h // block['ROWS']) * -(-w // width),)

    with _LOCK, _on(x.device):
        _kernel('correlate', tune)[grid](
            x, taps, bias, y, tops, sizes, n, c, h, w, len(rows), sum(columns), _size_class(n * h, w, sum(columns)),
            HAS_BIAS=bias is not x, PRECISION=_precision(x.device), COLUMNS=width, SOURCES=sources,
        )  # fmt: skip
    return y


def _weight_grad(x: Tensor, up: Tensor, rows: Sequence[int], columns: Sequence[int], tune: bool) -> Tensor:
    """Compute the weight's gradient, (C, 1, len(rows), len(columns)), float32.

    Blocks of columns are summed separately, and then the blocks are summed in a fixed order.
    """
    n, c, h, w = x.shape
    tops, sizes = _starts_and_sizes(tuple(rows), x.device, -(sum(rows) // 2))
    lefts, widths = _starts_and_sizes(tuple(columns), x.device, 0)
    width, sources = _block_columns(w, x.dtype)
    reached = width + sum(columns) - 1 + sources - 1  # the first chunk can start before the first column that is reached
    chunks = min(-(-w // sources), reached // sources + 1)
    blocks = -(-w // width) * chunks
    partial = x.new_empty(c, len(rows), blocks, len(columns), dtype=torch.float32)
    with _LOCK, _on(x.device):
        _kernel('weight_grad', tune)[(c * len(rows) * blocks,)](
            x, up, partial, tops, sizes, lefts, widths, n, c, h, w, len(rows), len(columns), sum(columns), chunks,
            _size_class(n * h, w, sum(columns)), PRECISION=_precision(x.device), COLUMNS=width, SOURCES=sources,
        )  # fmt: skip
    return partial.sum(2)[:, None]


@cache
def _kernel(name: str, tune: bool) -> Callable:
    """Return a kernel that uses the fastest of ``BLOCKS`` if ``tune`` is set, and the first otherwise."""
    import triton

    from . import kernels

    configs = [triton.Config(dict(ROWS=rows), num_warps=warps) for rows, warps in (BLOCKS if tune else BLOCKS[:1])]
    return triton.autotune(configs, key=['size_class', 'COLUMNS'])(getattr(kernels, name))


def _block_columns(width: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the number of output and source columns of a program: powers of 2, and at least 16, as tensor cores require."""
    least = max(16, 1 << (width - 1).bit_length())
    return min(64, least), min(32 if dtype == torch.float32 else 64, least)


def _size_class(rows: int, width: int, taps: int) -> int:
    """Return one number for all shapes within a factor of two, so that the autotuner does not time every image size."""
    return (rows.bit_length() * 64 + width.bit_length()) * 64 + taps.bit_length()


@lru_cache(maxsize=256)
def _starts_and_sizes(cells: tuple[int, ...], device: torch.device, first: int) -> tuple[Tensor, Tensor]:
    """Return the starts of the cells, counted from ``first``, and their sizes, both int32 on ``device``."""
    with torch.inference_mode(False):  # see cells._make_cell_index
        starts = torch.tensor(list(accumulate(cells[:-1], initial=first)), device=device, dtype=torch.int32)
        return starts, torch.tensor(cells, device=device, dtype=torch.int32)


def _precision(device: torch.device) -> str:
    """Return how to multiply float32: with three tf32 products on tensor cores, or directly, as AMD's compiler supports."""
    if device.type == 'cpu':
        return 'interpreted'
    return 'tf32x3' if torch.version.hip is None else 'ieee'


def _on(device: torch.device) -> AbstractContextManager:
    """Return a context in which ``device`` is current, because Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()
