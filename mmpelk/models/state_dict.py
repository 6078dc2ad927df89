"""Resize the kernels in state dicts that were trained on other sharing grids."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from mmpelk.ops import SharingGrid, resize_pos_embed, resize_weight
from mmpelk.ops.resizing import resizing_error
from mmpelk.utils.errors import InputError

HALF_GRID = re.compile(r'(?P<stage>.*stages\.(?P<index>\d+)\.)\d+\.token_mixer\.large\.half_grid$')

# Resizing a kernel needs memory in proportion to its size. The largest kernel in the paper is 151x151 (Table 7).
MAX_KERNEL_SIZE = 2**12 - 1


def stored_grid(half: Tensor, name: str) -> SharingGrid:
    """Return the sharing grid that a state dict stores with a kernel.

    Args:
        half: The half grid, of shape (number of cells,).
        name: Its name in the state dict, for the message.

    Raises:
        InputError: If it is not a list of integers, is not a valid grid, or has a kernel size above ``MAX_KERNEL_SIZE``.
    """
    if half.ndim != 1 or half.is_floating_point() or half.is_complex():
        raise InputError(
            f'{name} is {half.dtype} {tuple(half.shape)}; expected a list of integers, the cell sizes from the outside in'
        )
    try:
        grid = SharingGrid.from_half(half.tolist())
    except ValueError as error:
        raise InputError(f'{name}: {error}') from error
    if grid.kernel_size > MAX_KERNEL_SIZE:
        raise InputError(f'{name} describes a kernel of size {grid.kernel_size}; the maximum is {MAX_KERNEL_SIZE}')
    return grid


def resize_stages(
    weights: dict[str, Tensor], new_grid: Callable[[int, SharingGrid], SharingGrid], mode: str, prefix: str = ''
) -> dict[str, tuple[SharingGrid, SharingGrid]]:
    """Resize every PeLK kernel in a state dict, and the positional embedding h of its stage, in place.

    Args:
        weights: The state dict of any model that contains a PeLK. Kernels without a ``half_grid`` are left unchanged.
        new_grid: Maps the index of a stage and its old grid to the new grid.
        mode: See :func:`mmpelk.ops.resize_weight`.
        prefix: Only names that start with it are resized.

    Returns:
        The old and the new grid of each stage, by the prefix of its names ('...stages.0.').

    Raises:
        InputError: If a kernel does not match its grid, or the new grid is invalid. The message names the kernel.
    """
    grids = {}
    for half_name in [name for name in weights if name.startswith(prefix)]:
        match = HALF_GRID.match(half_name)
        name = half_name.removesuffix('half_grid') + 'weight'
        if match is None or name not in weights:
            continue
        old = stored_grid(weights[half_name], half_name)
        try:
            new = new_grid(int(match['index']), old)
            if new != old:
                weights[name] = resize_weight(weights[name], old, new, mode)
        except ValueError as error:
            raise InputError(f'{name}: {error}') from error
        weights[half_name] = weights[half_name].new_tensor(new.half)
        grids[match['stage']] = old, new
    for stage, (old, new) in grids.items():
        h_name = f'{stage}0.token_mixer.pos_embed.bias'
        if h_name in weights and new != old:
            try:
                weights[h_name] = resize_pos_embed(weights[h_name], new.kernel_size, mode)
            except ValueError as error:
                raise InputError(f'{h_name}: {error}') from error
    return grids


def describe_change(before: dict[str, Tensor], after: dict[str, Tensor], stage: str, old: SharingGrid, new: SharingGrid) -> str:
    """Describe how much mode 'extend' changes the kernels of a stage: ', exact', or the largest change in percent.

    Args:
        before: The state dict before resizing. If it is on the meta device, which has no values, the result is an empty string.
        after: The state dict after resizing.
        stage: The prefix of the stage's names, as :func:`resize_stages` returns it.
        old: The old grid of the stage.
        new: The new grid of the stage.
    """
    kernels = [name for name in before if name.startswith(stage) and name.endswith('token_mixer.large.weight')]
    if any(before[name].is_meta for name in kernels):
        return ''
    change = max(resizing_error(before[name], old, after[name], new) for name in kernels)
    return ', exact' if change == 0 else f', which changes the kernels by up to {change:.1%}'
