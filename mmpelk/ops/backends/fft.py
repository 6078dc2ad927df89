"""Exact depthwise convolution in the frequency domain.

A 'same' convolution of a map of height H with a kernel of radius r needs a circular length of only H + r, because the values that wrap
around lie outside the result. The kernel's center is stored at the origin, so the result needs no shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops.cells import cell_sums, expand

# Larger spectra are computed in chunks of channels. On a CPU, a chunk fits into the cache, which is 2 to 3 times faster on 128x128 maps
# than main memory (2 cores of an AMD EPYC with AVX-512, 2026-11-22). Elsewhere, the limit bounds the memory, and a
# chunk is large enough to keep a GPU busy.
MAX_CACHE_BYTES, MAX_BYTES = 2**21, 2**28


@cache
def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None. Torch can be built without FFTs for CPUs, and some devices have none."""
    if device.type == 'cuda':  # always has them, and a trial could fail for lack of memory or in the capture of a CUDA graph
        return None
    try:
        torch.fft.rfft(torch.zeros(2, device=device))
    except RuntimeError as error:
        return f'torch has no FFT on {device.type} here ({str(error).splitlines()[0]})'
    return None


def details() -> str:
    """Return an empty string: this backend uses only torch."""
    return ''


@lru_cache(maxsize=1024)
def fast_length(length: int) -> int:
    """Return the smallest number that is at least ``length`` and has no prime factors except 2, 3, and 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Predict the time in microseconds: an overhead, and a constant times (2 N + 1) C L log2(L).

    L is the number of points of a padded map. Each channel needs 2 N transforms of maps, forward and inverse, and one of the kernel.
    The backward pass needs three transforms for each two of the forward pass.

    The constants are fitted to medians on 2 cores of an AMD EPYC with AVX-512 on 2026-11-22, with torch 2.13.0, maps from 4x4 to
    128x128, and kernels from 5 to 101.
    """
    n, c = input.shape[:2]
    points = math.prod(_circle(input, rows, columns))
    work = (2 * n + 1) * c * points * math.log2(points) if points > 1 else 0
    return 250 + 4.4e-4 * work if backward else 150 + 2.2e-4 * work


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation y = irfft(X * conj(K)).

    float64 is computed in float64, and every other type in float32. The result has the input's type.
    """
    x, kernel = _computed(input), _computed(expand(weight, rows, columns))
    h, w = x.shape[-2:]
    shape = _circle(x, rows, columns)
    output = torch.empty_like(input, memory_format=torch.contiguous_format) if out is None else out
    for channels in _chunks(x, shape):
        # torch 2.13 ignores the lazy conj() inside an operator that a compiled graph calls.
        product = torch.fft.rfft2(x[:, channels], s=shape) * _kernel_spectrum(kernel[channels], shape).conj_physical_()
        result = torch.fft.irfft2(product, s=shape)[..., :h, :w]
        if bias is not None:
            result += bias[channels].to(result).view(-1, 1, 1)
        output[:, channels] = result
    return output


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight with transforms of the same lengths as in the forward pass."""
    x, up = _computed(input), _computed(grad)
    kh, kw = sum(rows), sum(columns)
    shape = _circle(x, rows, columns)
    grad_kernel = x.new_zeros(x.shape[1], 1, kh, kw)
    for channels in _chunks(x, shape):
        product = torch.fft.rfft2(up[:, channels], s=shape).conj_physical_() * torch.fft.rfft2(x[:, channels], s=shape)
        taps = torch.fft.irfft2(product.sum(0), s=shape).roll((kh // 2, kw // 2), (-2, -1))
        grad_kernel[channels] = taps[:, None, :kh, :kw]
    return cell_sums(grad_kernel, rows, columns).to(input.dtype)


def _computed(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _circle(input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> tuple[int, int]:
    """Return the height and width of the padded transform."""
    h, w = input.shape[-2:]
    return fast_length(h + sum(rows) // 2), fast_length(w + sum(columns) // 2)


def _kernel_spectrum(kernel: Tensor, shape: tuple[int, int]) -> Tensor:
    kh, kw = kernel.shape[-2:]
    padded = F.pad(kernel[:, 0], (0, shape[1] - kw, 0, shape[0] - kh))
    return torch.fft.rfft2(padded.roll((-(kh // 2), -(kw // 2)), (-2, -1)))


def _chunks(input: Tensor, shape: tuple[int, int]) -> list[slice]:
    """Return slices of channels whose spectra need at most ``MAX_CACHE_BYTES`` on a CPU, or ``MAX_BYTES`` elsewhere.

    An empty batch has none, because oneMKL raises an error for it.
    """
    n, channels = input.shape[:2]
    if n == 0:
        return []
    spectrum_bytes = n * shape[0] * (shape[1] // 2 + 1) * 2 * input.element_size()
    step = max(1, (MAX_CACHE_BYTES if input.device.type == 'cpu' else MAX_BYTES) // spectrum_bytes)
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
