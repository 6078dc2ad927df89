"""Resizing of a trained kernel and its positional embedding to another sharing grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sharing_grid import SharingGrid

RESIZE_MODES = ('extend', 'stretch')


def resize_weight(weight: Tensor, old: SharingGrid, new: SharingGrid, mode: str = 'extend') -> Tensor:
    """Resize a shared weight from one grid to another.

    The old kernel is a function of the offset from the center. The function is constant on each cell and zero outside the kernel.
    The weight of a new cell is the mean of this function over the cell.

    Args:
        weight: (..., k'_old, k'_old).
        old: The grid of ``weight``.
        new: The grid of the result, with any kernel size and cells.
        mode: 'extend' keeps every tap at its offset in pixels. It is exact if ``new`` only adds cells outside ``old``, as
            ``old.extended(k)`` does. 'stretch' scales the offsets with the kernel size, for maps whose resolution grew by the same
            factor, and divides by the factor by which the area grew, so that the sum over the kernel does not change.

    Returns:
        (..., k'_new, k'_new).

    Raises:
        ValueError: If the weight does not fit ``old`` or the mode is unknown.
    """
    check_resize_mode(mode)
    old.check_weight(weight)
    scale = new.kernel_size / old.kernel_size if mode == 'stretch' else 1.0
    shares = _cell_shares(old, new, scale).to(weight.device)
    return (shares @ weight.double() @ shares.T / scale**2).to(weight.dtype)


def resizing_error(weight: Tensor, old: SharingGrid, resized: Tensor, new: SharingGrid) -> float:
    """Return by how much :func:`resize_weight` has changed a kernel in mode 'extend'.

    Args:
        weight: (..., k'_old, k'_old).
        old: The grid of ``weight``.
        resized: (..., k'_new, k'_new), the result of :func:`resize_weight`.
        new: The grid of ``resized``.

    Returns:
        The norm of the difference between the expanded kernels, relative to the norm of the old one. It is 0 if the resized kernel is
        exactly the same function of the offset.
    """
    size = max(old.kernel_size, new.kernel_size)
    before, after = (
        F.pad(grid.expand(values).double(), [(size - grid.kernel_size) // 2] * 4)
        for grid, values in ((old, weight), (new, resized))
    )
    change = (after - before).norm()
    return 0.0 if change == 0 else (change / before.norm()).item()


def resize_pos_embed(pos_embed: Tensor, kernel_size: int, mode: str = 'extend') -> Tensor:
    """Resize a positional embedding h to another kernel size.

    Args:
        pos_embed: (C, k, k), k odd.
        kernel_size: Odd size of the new kernel.
        mode: 'extend' keeps every value at its offset and sets h to zero outside the old kernel. 'stretch' interpolates bicubically.

    Returns:
        (C, kernel_size, kernel_size).

    Raises:
        ValueError: If the mode is unknown, or the embedding has another shape.
    """
    check_resize_mode(mode)
    if pos_embed.dim() != 3 or pos_embed.shape[1] != pos_embed.shape[2] or pos_embed.shape[2] % 2 == 0:
        raise ValueError(f'a positional embedding has the shape (C, k, k) with an odd k, got {tuple(pos_embed.shape)}')
    old_size = pos_embed.shape[-1]
    if mode == 'extend' or old_size == kernel_size:
        return F.pad(pos_embed, [(kernel_size - old_size) // 2] * 4)
    size = (kernel_size, kernel_size)
    return F.interpolate(pos_embed[None], size, mode='bicubic', antialias=kernel_size < old_size)[0]


def check_resize_mode(mode: str) -> None:
    """Raise ValueError unless ``mode`` is 'extend' or 'stretch'."""
    if mode not in RESIZE_MODES:
        raise ValueError(f'the resize mode must be one of {RESIZE_MODES}, got {mode!r}')


def _cell_shares(old: SharingGrid, new: SharingGrid, scale: float) -> Tensor:
    """Return, along one axis, the fraction of each new cell that each scaled old cell covers: (k'_new, k'_old), float64."""
    old_edges = (torch.tensor(old.edges, dtype=torch.float64) - old.kernel_size / 2) * scale
    new_edges = torch.tensor(new.edges, dtype=torch.float64) - new.kernel_size / 2
    starts = torch.maximum(new_edges[:-1, None], old_edges[None, :-1])
    ends = torch.minimum(new_edges[1:, None], old_edges[None, 1:])
    return (ends - starts).clamp(min=0) / new_edges.diff()[:, None]
