"""Carrying the kernels in a state dict to other sharing grids."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from mmpelk.errors import InputError
from mmpelk.ops import SharingGrid, resize_pos_embed, resize_weight

KERNEL = re.compile(r'(?P<stage>.*stages\.(?P<index>\d+)\.)\d+\.token_mixer\.large\.half_grid$')


def resize_stages(
    weights: dict[str, Tensor], new_grid: Callable[[int, SharingGrid], SharingGrid], mode: str, prefix: str = ''
) -> dict[str, tuple[SharingGrid, SharingGrid]]:
    """Carry every PeLK kernel in a state dict, and its stage's h, to another grid, in place.

    Args:
        weights: Of any model with a PeLK in it. Kernels without a ``half_grid`` stay as they are.
        new_grid: Takes a stage's index and the old grid, and gives the new one.
        mode: See :func:`mmpelk.ops.resize_weight`.
        prefix: Of the names to resize.

    Returns:
        Old and new grid of each stage, by the beginning of its names ('...stages.0.').

    Raises:
        InputError: If a kernel does not fit its grid, or there is no such new grid; the message names the kernel.
    """
    grids = {}
    for half_name in [name for name in weights if name.startswith(prefix)]:
        match = KERNEL.match(half_name)
        name = half_name.removesuffix('half_grid') + 'weight'
        if match is None or name not in weights:
            continue
        old = SharingGrid.from_half(weights[half_name].tolist())
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
            weights[h_name] = resize_pos_embed(weights[h_name], new.kernel_size, mode)
    return grids
