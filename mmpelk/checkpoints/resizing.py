"""Resizing the kernels in a checkpoint, without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from mmpelk.errors import InputError
from mmpelk.ops import SharingGrid, resize_pos_embed, resize_weight

KERNEL = re.compile(r'(?P<stage>.*stages\.(?P<index>\d+)\.)\d+\.token_mixer\.large\.weight$')


def resize_kernels(weights: dict[str, Tensor], kernel_sizes: Sequence[int], center_size: int | None, mode: str) -> list[str]:
    """Carry every PeLK kernel in a state dict to other kernel sizes, in place.

    Args:
        weights: Of any model with a PeLK in it.
        kernel_sizes: New kernel size of each stage.
        center_size: Centre of the new default grids; None keeps all cells and adds some outside.
        mode: See :func:`mmpelk.ops.resize_weight`.

    Returns:
        One line for each stage.

    Raises:
        InputError: If there are no such kernels, one does not fit its grid, or a size does not fit.
    """
    lines: dict[str, str] = {}
    for name in [name for name in weights if KERNEL.match(name)]:
        match = KERNEL.match(name)
        half_name = name.replace('.weight', '.half_grid')
        if half_name not in weights:
            raise InputError(f'{half_name} is missing, which tells the grid of {name}')
        old = SharingGrid.from_half(weights[half_name].tolist())
        size = kernel_sizes[int(match['index'])]
        try:
            new = old.extended(size) if center_size is None else SharingGrid.peripheral(size, center_size)
            old.check_weight(weights[name])
        except ValueError as error:
            raise InputError(f'{name}: {error}') from error
        weights[name] = resize_weight(weights[name], old, new, mode)
        weights[half_name] = weights[half_name].new_tensor(new.half)
        stage = match['stage']
        if stage in lines:
            continue
        h_name = f'{stage}0.token_mixer.pos_embed.bias'
        if h_name in weights:
            weights[h_name] = resize_pos_embed(weights[h_name], size, mode)
        sizes = f'{old.kernel_size}x{old.kernel_size} resized to {size}x{size}'
        lines[stage] = f'{stage}*: kernels {sizes}, half grid {list(old.half)} to {list(new.half)}, mode {mode!r}'
    if not lines:
        raise InputError('no kernels of a PeLK (stages.*.*.token_mixer.large.weight)')
    return list(lines.values())
