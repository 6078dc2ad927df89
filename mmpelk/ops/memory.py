"""How a map lies in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """channels_last for (N, C, H, W) tensors whose channels are next to each other, also where they are a part of a larger tensor's."""
    last = tensor.stride(1) == 1 and tensor.shape[1] > 1 and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
