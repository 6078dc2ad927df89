"""The structured evaluation on GPUs, on their tensor cores (``kernels.py``).

Triton comes with torch's CUDA builds and is imported on first use. float32 is split into three tf32 products, which keeps its accuracy;
half types are multiplied as they are. All sums are float32.
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
_LOCK = threading.Lock()  # Triton's autotuner keeps a call's arguments in itself
# (rows, warps) of a program. Triton times them once for each class of sizes; the first serves where timing is not allowed.
BLOCKS = ((64, 4), (128, 8), (32, 4))


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot run there, or None."""
    if dtype not in TYPES:
        return f'it computes in float32, which would round {dtype}'
    if device.type != 'cuda' and not (device.type == 'cpu' and os.environ.get('TRITON_INTERPRET') == '1'):
        return "it runs on GPUs (on CPUs only for tests, in Triton's interpreter, with TRITON_INTERPRET=1)"
    return _failure(device, dtype)


def _failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """What goes wrong when both kernels are compiled and run on one position: no Triton, one of another version, a GPU that is too old."""
    if (device, dtype) in _FAILURES:
        return _FAILURES[device, dtype]
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        return 'it was not tried before this CUDA graph is captured'
    failure = None
    try:
        import triton

        x = torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
        _correlate(x, x, None, (1,), (1,), tune=False)
        _weight_grad(x, x, (1,), (1,), tune=False).item()
    except torch.OutOfMemoryError as error:
        return f'{device} has no memory left ({first_line(error)})'  # now; it may have later
    except ImportError as error:
        failure = f'Triton cannot be imported ({error})'
    except Exception as error:  # whatever it is, the other backends can serve
        failure = f'Triton {triton.__version__} cannot run its kernels on {device} ({type(error).__name__}: {first_line(error)})'
    _FAILURES[device, dtype] = failure
    return failure


def details() -> str:
    """What it uses."""
    import triton

    return f' (Triton {triton.__version__})'


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Never the least where times are predicted, on CPUs, which interpret it."""
    return math.inf


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Depthwise 'same' correlation, in the input's type, (N, C, H, W) contiguous."""
    return _correlate(input.contiguous(), weight, bias, rows, columns, may_measure(input.device))


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, rows: Sequence[int], columns: Sequence[int], needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight. The input's is the same convolution with the kernel turned about."""
    up, tune, grad_input, grad_weight = grad.to(input.dtype).contiguous(), may_measure(input.device), None, None
    if needs[0]:
        grad_input = _correlate(up, weight.flip(-2, -1), None, rows, columns, tune)
    if needs[1]:
        grad_weight = _weight_grad(input.contiguous(), up, rows, columns, tune).to(weight.dtype)
    return grad_input, grad_weight


def _correlate(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], tune: bool) -> Tensor:
    n, c, h, w = x.shape
    y = torch.empty_like(x)
    if n == 0:
        return y
    tops, sizes = _starts_and_sizes(tuple(rows), x.device, -(sum(rows) // 2))
    # The kernel takes means over the rows of a cell, so their number goes into the weight.
    taps = (expand(weight, (1,) * len(rows), columns) * sizes[:, None]).to(x.dtype).contiguous()
    bias = x if bias is None else bias.float().contiguous()
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
    """(C, 1, len(rows), len(columns)), float32: by blocks of columns, then the sum of the blocks, in an order that never changes."""
    n, c, h, w = x.shape
    tops, sizes = _starts_and_sizes(tuple(rows), x.device, -(sum(rows) // 2))
    lefts, widths = _starts_and_sizes(tuple(columns), x.device, 0)
    width, sources = _block_columns(w, x.dtype)
    reached = width + sum(columns) - 1 + sources - 1  # the first chunk may start before the first column reached
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
    """A kernel with the fastest of ``BLOCKS``, or with the first."""
    import triton

    from . import kernels

    configs = [triton.Config(dict(ROWS=rows), num_warps=warps) for rows, warps in (BLOCKS if tune else BLOCKS[:1])]
    return triton.autotune(configs, key=['size_class', 'COLUMNS'])(getattr(kernels, name))


def _block_columns(width: int, dtype: torch.dtype) -> tuple[int, int]:
    """Output and source columns of a program: powers of 2, at least the 16 that a tensor core's product needs."""
    least = max(16, 1 << (width - 1).bit_length())
    return min(64, least), min(32 if dtype == torch.float32 else 64, least)


def _size_class(rows: int, width: int, taps: int) -> int:
    """One number for shapes within a factor of two, for the autotuner: images of many sizes are not timed one by one."""
    return (rows.bit_length() * 64 + width.bit_length()) * 64 + taps.bit_length()


@lru_cache(maxsize=256)
def _starts_and_sizes(cells: tuple[int, ...], device: torch.device, first: int) -> tuple[Tensor, Tensor]:
    """int32, on the device: where cells start, counted from ``first``, and their sizes."""
    with torch.inference_mode(False):  # see cells._make_cell_index
        starts = torch.tensor(list(accumulate(cells[:-1], initial=first)), device=device, dtype=torch.int32)
        return starts, torch.tensor(cells, device=device, dtype=torch.int32)


def _precision(device: torch.device) -> str:
    """How float32 is multiplied: on the tensor cores, three products for each; AMD's compiler knows float32 itself."""
    if device.type == 'cpu':
        return 'interpreted'
    return 'tf32x3' if torch.version.hip is None else 'ieee'


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()
