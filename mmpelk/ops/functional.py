"""Depthwise and peripheral convolution as functions (PeLK, sections 4.1 and 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import check_shape, check_type, convolve_on_cells
from .sharing_grid import SharingGrid

POS_EMBED_MODES = ('literal', 'inside')


def depthwise_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str = 'auto', partial: bool = False
) -> Tensor:
    """Apply a depthwise correlation with stride 1 and zero padding that keeps the size of the map.

    A kernel may be larger than the map. Taps that cannot touch the map are cropped first.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32, or float64, H and W at least 1.
        weight: (C, 1, kh, kw), both sizes odd.
        bias: (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`. 'auto' selects the backend with the least predicted time,
            or on GPUs the one measured to be fastest.
        partial: Whether the input may have more channels than the weight. The first C channels are then convolved, and the others
            pass unchanged (Eq. 4-6). One map holds both, so nothing is split or concatenated. Under autocast, all channels are cast.

    Returns:
        A map of the shape, type, and memory format of the input; under autocast, of the autocast type. 'fft' and 'native' compute
        half types in float32.

    Raises:
        ValueError: If a shape is wrong, or the backend is unknown or cannot run on the device and type of the input.
    """
    channels, passed = _convolved_channels(input, weight, partial)
    if weight.ndim != 4 or weight.shape[:2] != (channels, 1):
        raise ValueError(f'weight must have shape ({channels}, 1, kh, kw) for {channels} channels, got {tuple(weight.shape)}')
    kh, kw = weight.shape[-2:]
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f'kernel sizes must be odd, got {kh}x{kw}')
    _check_bias(bias, channels)
    return convolve_on_cells(input, weight, bias, (1,) * kh, (1,) * kw, passed, backend)


def peripheral_conv2d(
    input: Tensor,
    weight: Tensor,
    grid: SharingGrid,
    pos_embed: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str = 'auto',
    pos_embed_mode: str = 'literal',
    partial: bool = False,
) -> Tensor:
    """Apply a depthwise convolution whose k x k kernel is ``grid.expand(weight)``, with a kernel-wise positional embedding.

    Y(x, y) = sum over i, j in [-r, r] of w(i, j) * (X(x + i, y + j) + h(i, j)), r = (k - 1) / 2 (Eq. 3). X is zero outside the map.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32, or float64, H and W at least 1; may be smaller than the kernel.
        weight: (C, 1, k', k').
        grid: The sharing grid from k' to k.
        pos_embed: The positional embedding h, (1 or C, k, k).
        bias: (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`.
        pos_embed_mode: See :func:`pos_embed_term`.
        partial: See :func:`depthwise_conv2d`.

    Returns:
        A map of the shape of the input.

    Raises:
        ValueError: If a shape does not match the grid or the channels, or the backend or mode is unknown or cannot run.
    """
    channels, passed = _convolved_channels(input, weight, partial)
    expected = (channels, 1, grid.weight_size, grid.weight_size)
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"weight must have shape {expected} for {channels} channels and the grid's k', got {tuple(weight.shape)}"
        )
    _check_bias(bias, channels)
    term = None
    if pos_embed is not None:
        term = pos_embed_term(weight, grid, pos_embed, tuple(input.shape[-2:]), pos_embed_mode)
        if passed:
            term = F.pad(term, (0, 0, 0, 0, 0, passed))
    output = convolve_on_cells(input, weight, bias, grid.cells, grid.cells, passed, backend)
    return output if term is None else output + term.to(output.dtype)


def pos_embed_term(weight: Tensor, grid: SharingGrid, pos_embed: Tensor, size: tuple[int, int], mode: str = 'literal') -> Tensor:
    """Return the part of Eq. 3 that depends on h and not on X.

    Args:
        weight: (C, 1, k', k').
        grid: The sharing grid from k' to k.
        pos_embed: The positional embedding h, (1 or C, k, k).
        size: (H, W) of the map.
        mode: 'literal' counts h at every tap. The term is then sum(w * h), a constant per channel, on any map. 'inside' counts h
            only at taps inside the map. The term then varies near the borders and depends on the size of the map.

    Returns:
        (C, 1, 1) for 'literal', (C, H, W) for 'inside'.

    Raises:
        ValueError: If h has a wrong shape or is on another device than the weight, or the mode is unknown.
    """
    check_pos_embed_mode(mode)
    channels, k = weight.shape[0], grid.kernel_size
    if pos_embed.ndim != 3 or pos_embed.shape[0] not in (1, channels) or tuple(pos_embed.shape[1:]) != (k, k):
        raise ValueError(f'pos_embed must have shape (1 or {channels}, {k}, {k}), got {tuple(pos_embed.shape)}')
    if pos_embed.device != weight.device:
        raise ValueError(f'weight and pos_embed must be on one device, got {weight.device} and {pos_embed.device}')
    if mode == 'literal':
        return (weight[:, 0] * grid.cell_sums(pos_embed)).sum((-2, -1), keepdim=True)
    product = grid.expand(weight)[:, 0] * pos_embed
    rows, columns = (_taps_inside(length, product) for length in size)
    return rows @ product @ columns.T


def check_pos_embed_mode(mode: str) -> None:
    """Raise ValueError unless ``mode`` is 'literal' or 'inside'."""
    if mode not in POS_EMBED_MODES:
        raise ValueError(f'pos_embed_mode must be one of {POS_EMBED_MODES}, got {mode!r}')


def _convolved_channels(input: Tensor, weight: Tensor, partial: bool) -> tuple[int, int]:
    """Return the number of channels that are convolved and the number of those that pass unchanged.

    Raises:
        ValueError: If ``input`` is not an (N, C, H, W) tensor of a supported type with non-empty maps.
    """
    check_shape(input)
    check_type(input)
    channels = input.shape[1]
    passed = channels - weight.shape[0] if partial and 0 < weight.shape[0] <= channels else 0
    return channels - passed, passed


def _check_bias(bias: Tensor | None, channels: int) -> None:
    """Raise ValueError unless ``bias`` is None or has shape (channels,)."""
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f'bias must have shape ({channels},), got {tuple(bias.shape)}')


def _taps_inside(length: int, product: Tensor) -> Tensor:
    """(length, k): 1 where a tap lies inside the map, for each position and offset along one axis."""
    k, device = product.shape[-1], product.device
    target = torch.arange(length, device=device)[:, None] + torch.arange(k, device=device) - k // 2
    return ((target >= 0) & (target < length)).to(product)
