"""The memory layout of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Return ``channels_last`` if the channels of an (N, C, H, W) tensor are adjacent in memory, otherwise ``contiguous_format``.

    Slices of the channels of a channels_last tensor count as channels_last.
    """
    last = tensor.stride(1) == 1 and tensor.shape[1] > 1 and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
