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

# Spectra beyond this are computed chunk by chunk: 2 to 3 times faster on 128x128 maps than through main memory.
CACHE_BYTES = 2**21


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
        ctx.shape, ctx.chunks = shape, _chunks(input, shape)
        output = torch.empty_like(input, memory_format=torch.contiguous_format)
        for channels in ctx.chunks:
            spectrum = torch.fft.rfft2(input[:, channels], s=shape)
            product = spectrum * _kernel_spectrum(kernel[channels], shape).conj()
            output[:, channels] = torch.fft.irfft2(product, s=shape)[..., :h, :w]
        # Chunked spectra are cheaper to compute again than to keep.
        ctx.save_for_backward(input, kernel, spectrum if len(ctx.chunks) == 1 and ctx.needs_input_grad[1] else None)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        input, kernel, kept_spectrum = ctx.saved_tensors
        shape = ctx.shape
        (h, w), (kh, kw) = input.shape[-2:], kernel.shape[-2:]
        grad_input = torch.empty_like(input, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        grad_kernel = torch.empty_like(kernel) if ctx.needs_input_grad[1] else None
        for channels in ctx.chunks:
            grad_spectrum = torch.fft.rfft2(grad_output[:, channels], s=shape)
            if grad_kernel is not None:
                spectrum = torch.fft.rfft2(input[:, channels], s=shape) if kept_spectrum is None else kept_spectrum
                product = torch.einsum('nchw,nchw->chw', grad_spectrum.conj(), spectrum)
                taps = torch.fft.irfft2(product, s=shape).roll((kh // 2, kw // 2), (-2, -1))
                grad_kernel[channels] = taps[:, None, :kh, :kw]
            if grad_input is not None:
                product = grad_spectrum.mul_(_kernel_spectrum(kernel[channels], shape))
                grad_input[:, channels] = torch.fft.irfft2(product, s=shape)[..., :h, :w]
        return grad_input, grad_kernel


def _chunks(input: Tensor, shape: tuple[int, int]) -> list[slice]:
    """Slices of channels whose spectra stay in a CPU core's cache; one slice on other devices."""
    n, channels = input.shape[:2]
    spectrum_bytes = max(1, n) * shape[0] * (shape[1] // 2 + 1) * 2 * input.element_size()
    step = max(1, CACHE_BYTES // spectrum_bytes) if input.device.type == 'cpu' else channels
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
