"""Kernels that are constant over cells: expansion, its adjoint, and cropping to the map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mmpelk.utils.torch_compat import is_compiling


def expand(weight: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Copy each weight to all positions of its cell: (..., len(rows), len(columns)) to (..., sum(rows), sum(columns))."""
    if max(rows) > 1:
        weight = weight.index_select(-2, _cell_index(tuple(rows), weight.device))
    if max(columns) > 1:
        weight = weight.index_select(-1, _cell_index(tuple(columns), weight.device))
    return weight


def cell_sums(kernel: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Sum a kernel within each cell. This is the adjoint of :func:`expand`."""
    if max(rows) > 1:
        sums = kernel.new_zeros(*kernel.shape[:-2], len(rows), kernel.shape[-1])
        kernel = sums.index_add(-2, _cell_index(tuple(rows), kernel.device), kernel)
    if max(columns) > 1:
        sums = kernel.new_zeros(*kernel.shape[:-1], len(columns))
        kernel = sums.index_add(-1, _cell_index(tuple(columns), kernel.device), kernel)
    return kernel


def crop(cells: Sequence[int], length: int) -> tuple[tuple[int, ...], int]:
    """Crop the cells of a centered kernel to the taps that can touch a map of ``length`` positions, at most 2 * length - 1.

    Returns:
        The remaining cells, and the number of cells removed at each end.
    """
    cells, dropped = list(cells), 0
    excess = max(0, sum(cells) // 2 - (length - 1))
    while excess and len(cells) > 1 and cells[0] <= excess:
        excess -= cells[0]
        cells = cells[1:-1]
        dropped += 1
    if len(cells) == 1:
        return (cells[0] - 2 * excess,), dropped
    cells[0] -= excess
    cells[-1] -= excess
    return tuple(cells), dropped


def _cell_index(cells: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the index of the cell that contains each position along one axis."""
    # torch.compile turns the tensor into a constant, and warns about lru_cache.
    return _make_cell_index(cells, device) if is_compiling() else _cached_cell_index(cells, device)


@lru_cache(maxsize=256)
def _cached_cell_index(cells: tuple[int, ...], device: torch.device) -> Tensor:
    # The cache outlives the caller's context, and autograd cannot use a tensor created in inference mode.
    with torch.inference_mode(False):
        return _make_cell_index(cells, device)


def _make_cell_index(cells: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([index for index, size in enumerate(cells) for _ in range(size)], device=device)
