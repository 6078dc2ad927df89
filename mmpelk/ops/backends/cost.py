"""How 'auto' compares backends: by the time that each one predicts for itself.

A prediction is a fixed overhead plus a constant times the work: N C H W kh kw multiply-adds for dense, and
(2 N + 1) C L log2(L) for the FFT, L the points of a padded map (N maps there and back, one kernel). A call whose gradients will
be asked for is judged by forward and backward together. The constants are fitted to medians on 2 cores of an AMD EPYC with
AVX-512, torch 2.13.0, maps from 4x4 to 128x128 and kernels from 5 to 101. They were not measured on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def needs_grad(input: Tensor, kernel: Tensor) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and (input.requires_grad or kernel.requires_grad)
