"""Peripheral convolution (PeLK, sections 4.1 and 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from .depthwise import check_bias, check_input
from .sharing_grid import SharingGrid

POS_EMBED_MODES = ('literal', 'inside')


def peripheral_conv2d(
    input: Tensor,
    weight: Tensor,
    grid: SharingGrid,
    pos_embed: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str = 'auto',
    pos_embed_mode: str = 'literal',
) -> Tensor:
    """Depthwise convolution whose k x k kernel is ``grid.expand(weight)``, with a kernel-wise positional embedding.

    Y(x, y) = sum over i, j in [-r, r] of w(i, j) * (X(x + i, y + j) + h(i, j)), r = (k - 1) / 2 (Eq. 3), X zero outside the map.

    Args:
        input: (N, C, H, W), floating point, H and W at least 1; may be smaller than the kernel.
        weight: (C, 1, k', k').
        grid: The sharing grid, k' to k.
        pos_embed: h, (1 or C, k, k).
        bias: (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`.
        pos_embed_mode: See :func:`pos_embed_term`.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: If a shape does not fit the grid or the channels, or the backend or the mode is unknown or cannot run.
    """
    check_input(input)
    channels = input.shape[1]
    expected = (channels, 1, grid.weight_size, grid.weight_size)
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"weight must have shape {expected} for {channels} channels and the grid's k', got {tuple(weight.shape)}"
        )
    check_bias(bias, channels)
    term = None
    if pos_embed is not None:
        term = pos_embed_term(weight, grid, pos_embed, tuple(input.shape[-2:]), pos_embed_mode)
    output = torch.ops.mmpelk.depthwise_conv2d(input, weight, bias, grid.cells, grid.cells, backend)
    return output if term is None else output + term.to(output.dtype)


def pos_embed_term(weight: Tensor, grid: SharingGrid, pos_embed: Tensor, size: tuple[int, int], mode: str = 'literal') -> Tensor:
    """The part of Eq. 3 that comes from h and does not depend on X.

    Args:
        weight: (C, 1, k', k').
        grid: The sharing grid, k' to k.
        pos_embed: h, (1 or C, k, k).
        size: (H, W) of the map.
        mode: 'literal' counts h at every tap, which gives one number per channel, sum(w * h), on any map. 'inside' counts it
            only at taps that lie inside the map, so that the term varies near the borders and with the map's size.

    Returns:
        (C, 1, 1) for 'literal', (C, H, W) for 'inside'.

    Raises:
        ValueError: If h has another shape or the mode is unknown.
    """
    check_pos_embed_mode(mode)
    channels, k = weight.shape[0], grid.kernel_size
    if pos_embed.ndim != 3 or pos_embed.shape[0] not in (1, channels) or tuple(pos_embed.shape[1:]) != (k, k):
        raise ValueError(f'pos_embed must have shape (1 or {channels}, {k}, {k}), got {tuple(pos_embed.shape)}')
    if mode == 'literal':
        return (weight[:, 0] * grid.cell_sums(pos_embed)).sum((-2, -1), keepdim=True)
    product = grid.expand(weight)[:, 0] * pos_embed
    rows, columns = (_taps_inside(length, product) for length in size)
    return rows @ product @ columns.T


def check_pos_embed_mode(mode: str) -> None:
    """Raise ValueError unless ``mode`` is one of 'literal' and 'inside'."""
    if mode not in POS_EMBED_MODES:
        raise ValueError(f'pos_embed_mode must be one of {POS_EMBED_MODES}, got {mode!r}')


def _taps_inside(length: int, product: Tensor) -> Tensor:
    """(length, k): 1 where the tap of that offset, seen from that position, lies inside the map."""
    k = product.shape[-1]
    target = torch.arange(length)[:, None] + torch.arange(k) - k // 2
    return ((target >= 0) & (target < length)).to(product)
