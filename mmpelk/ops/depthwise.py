"""Depthwise convolution with a full kernel of any size, on maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from .backends import choose_backend


def depthwise_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str = 'auto') -> Tensor:
    """Depthwise correlation with stride 1 and 'same' zero padding.

    Taps further from the centre than the map is wide never touch it and are cropped first, so a kernel may exceed the map.

    Args:
        input: (N, C, H, W), floating point, H and W at least 1.
        weight: (C, 1, kh, kw), both sizes odd.
        bias: (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`. 'auto' takes the one with the least predicted time.

    Returns:
        (N, C, H, W). 'fft' computes half types in float32 and returns the input's type; 'dense' is torch's conv2d and follows
        autocast as that does.

    Raises:
        ValueError: If a shape does not fit, or the backend is unknown or cannot run on the input's device.
    """
    check_input(input)
    channels, h, w = input.shape[1:]
    if weight.ndim != 4 or weight.shape[:2] != (channels, 1):
        raise ValueError(f'weight must have shape ({channels}, 1, kh, kw) for {channels} channels, got {tuple(weight.shape)}')
    kh, kw = weight.shape[-2:]
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f'kernel sizes must be odd, got {kh}x{kw}')
    check_bias(bias, channels)
    top, left = max(0, kh // 2 - h + 1), max(0, kw // 2 - w + 1)
    weight = weight[..., top : kh - top, left : kw - left]
    output = choose_backend(backend, input, weight).run(input, weight)
    return output if bias is None else output + bias.to(output.dtype).view(1, -1, 1, 1)


def check_input(input: Tensor) -> None:
    """Raise ValueError unless ``input`` is a floating-point (N, C, H, W) with no empty map."""
    if input.ndim != 4 or 0 in input.shape[1:]:
        raise ValueError(f'input must have shape (N, C, H, W) with C, H, W at least 1, got {tuple(input.shape)}')
    if not torch.is_floating_point(input):
        raise ValueError(f'input must be floating point, got {input.dtype}')


def check_bias(bias: Tensor | None, channels: int) -> None:
    """Raise ValueError unless ``bias`` is None or (channels,)."""
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f'bias must have shape ({channels},), got {tuple(bias.shape)}')
