"""Direct convolution with torch, which is the fastest for small kernels and maps, and the reference for the other backends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops.cells import cell_sums, expand
from mmpelk.utils.errors import first_line

# oneDNN has depthwise kernels up to this width. For wider kernels and for float64, torch uses a loop that is about 15 times slower
# (2 cores of an AMD EPYC with AVX-512, 2026-11-22).
FAST_WIDTH = 14


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can."""
    return _failure(device.type, dtype) if dtype == torch.float16 else None


@cache
def _failure(device_type: str, dtype: torch.dtype) -> str | None:
    """Try a convolution. On CPUs, torch 2.1 has none in float16."""
    x = torch.zeros(1, 1, 1, 1, device=device_type, dtype=dtype)
    try:
        F.conv2d(x, x)
    except RuntimeError as error:
        return f'torch {torch.__version__} cannot convolve {dtype} on this device ({first_line(error)})'
    return None


def details() -> str:
    """Return an empty string: this backend uses only torch."""
    return ''


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Predict the time in microseconds: an overhead, and a constant per multiply-add. Fitted like :func:`fft.cost`."""
    multiply_adds = input.numel() * sum(rows) * sum(columns)
    if backward:
        return 100 + 7e-4 * multiply_adds
    fast = sum(columns) <= FAST_WIDTH and input.dtype != torch.float64
    return 150 + 2e-5 * multiply_adds if fast else 100 + 3e-4 * multiply_adds


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation in the input's type, even under autocast."""
    kernel = expand(weight, rows, columns).to(input.dtype)
    bias = None if bias is None else bias.to(input.dtype)
    with torch.autocast(input.device.type, enabled=False):
        output = F.conv2d(input, kernel, bias, padding=_padding(rows, columns), groups=input.shape[1])
    return output if out is None else out.copy_(output)


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight."""
    channels, padding = input.shape[1], _padding(rows, columns)
    kernel = input.new_empty(channels, 1, sum(rows), sum(columns))  # only its shape matters
    _, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad.to(input.dtype), input, kernel, None, (1, 1), padding, (1, 1), False, (0, 0), channels, (False, True, False)
    )
    # A cell can have many taps, so half types are summed in float32.
    sums = cell_sums(grad_kernel.to(torch.promote_types(grad_kernel.dtype, torch.float32)), rows, columns)
    return sums.to(input.dtype)


def _padding(rows: Sequence[int], columns: Sequence[int]) -> tuple[int, int]:
    return sum(rows) // 2, sum(columns) // 2
