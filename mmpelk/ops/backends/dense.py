"""Direct convolution through torch: the reference, and the faster one for small kernels and maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .cost import needs_grad

# oneDNN's depthwise kernels cover widths up to here; beyond, and for float64, torch takes a loop some 15 times slower.
FAST_WIDTH = 14


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on ``device``; it always can."""
    return None


def cost(input: Tensor, kernel: Tensor) -> float:
    """Predicted microseconds; see ``cost.py``."""
    multiply_adds = input.numel() * kernel.shape[-2] * kernel.shape[-1]
    if needs_grad(input, kernel):
        return 100 + 7e-4 * multiply_adds
    fast = kernel.shape[-1] <= FAST_WIDTH and input.dtype != torch.float64
    return 100 + (2e-5 if fast else 3e-4) * multiply_adds


def run(input: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise 'same' correlation: (N, C, H, W) with (C, 1, kh, kw), odd sizes."""
    kh, kw = kernel.shape[-2:]
    return F.conv2d(input, kernel, padding=(kh // 2, kw // 2), groups=input.shape[1])
