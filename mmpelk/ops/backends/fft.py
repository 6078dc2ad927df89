"""Exact depthwise convolution in the frequency domain.

A 'same' result of height H under a kernel of radius r needs a circular length of H + r only: what wraps around lies outside the
result. The kernel's centre is stored at the origin, so the result needs no shift either.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cost import needs_grad


@cache
def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on ``device``, or None: torch can be built without FFTs, and some devices lack them."""
    try:
        torch.fft.rfft(torch.zeros(2, device=device))
    except (RuntimeError, NotImplementedError) as error:
        return f'torch has no FFT on {device.type} here ({str(error).splitlines()[0]})'
    return None


@lru_cache(maxsize=1024)
def fast_length(length: int) -> int:
    """The smallest number of factors 2, 3 and 5 that is at least ``length``."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def cost(input: Tensor, kernel: Tensor) -> float:
    """Predicted microseconds; see ``cost.py``."""
    n, c = input.shape[:2]
    points = math.prod(_circle(input, kernel))
    work = (2 * n + 1) * c * points * math.log2(points) if points > 1 else 0
    return 300 + 6e-4 * work if needs_grad(input, kernel) else 150 + 2.2e-4 * work


def run(input: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise 'same' correlation: (N, C, H, W) with (C, 1, kh, kw), odd sizes, radius at most H - 1 and W - 1.

    float64 is computed in float64, every other type in float32, under autocast too; the result has the input's type.
    """
    compute = torch.float64 if input.dtype == torch.float64 else torch.float32
    return _FFTConv.apply(input.to(compute), kernel.to(compute)).to(input.dtype)


def _circle(input: Tensor, kernel: Tensor) -> tuple[int, int]:
    """Height and width of the padded transform."""
    (h, w), (kh, kw) = input.shape[-2:], kernel.shape[-2:]
    return fast_length(h + kh // 2), fast_length(w + kw // 2)


def _kernel_spectrum(kernel: Tensor, shape: tuple[int, int]) -> Tensor:
    kh, kw = kernel.shape[-2:]
    padded = F.pad(kernel[:, 0], (0, shape[1] - kw, 0, shape[0] - kh))
    return torch.fft.rfft2(padded.roll((-(kh // 2), -(kw // 2)), (-2, -1)))


class _FFTConv(torch.autograd.Function):
    """Correlation y = irfft(X * conj(K)), and its two adjoints on the same circle.

    Autograd's own derivative of rfft2 runs a full complex transform; written out, each adjoint is one real transform.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, kernel: Tensor) -> Tensor:
        h, w = input.shape[-2:]
        shape = _circle(input, kernel)
        input_spectrum = torch.fft.rfft2(input, s=shape)
        kernel_spectrum = _kernel_spectrum(kernel, shape)
        ctx.save_for_backward(input_spectrum if kernel.requires_grad else None, kernel_spectrum)
        ctx.sizes = (h, w), kernel.shape[-2:], shape
        return _crop(torch.fft.irfft2(input_spectrum * kernel_spectrum.conj(), s=shape), h, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        input_spectrum, kernel_spectrum = ctx.saved_tensors
        (h, w), (kh, kw), shape = ctx.sizes
        grad_spectrum = torch.fft.rfft2(grad_output, s=shape)
        grad_input = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_input = _crop(torch.fft.irfft2(grad_spectrum * kernel_spectrum, s=shape), h, w)
        if ctx.needs_input_grad[1]:
            product = torch.einsum('nchw,nchw->chw', grad_spectrum.conj(), input_spectrum)
            taps = torch.fft.irfft2(product, s=shape).roll((kh // 2, kw // 2), (-2, -1))
            grad_kernel = _crop(taps, kh, kw).unsqueeze(1)
        return grad_input, grad_kernel


def _crop(tensor: Tensor, h: int, w: int) -> Tensor:
    # Contiguous, so that the padded transform is freed and the layers after see an ordinary map.
    return tensor[..., :h, :w].contiguous()
