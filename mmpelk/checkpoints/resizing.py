"""Resize the kernels in a checkpoint file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmpelk.models.state_dict import resize_stages
from mmpelk.ops import SharingGrid
from mmpelk.utils.errors import InputError

from .reading import model_weights, read_checkpoint
from .writing import write_checkpoint


def resize_checkpoint(
    source: str | Path, out: str | Path, new_grid: Callable[[int, SharingGrid], SharingGrid], mode: str
) -> list[str]:
    """Resize the kernels and positional embeddings of a PeLK checkpoint, and write the weights and the ``meta`` of the checkpoint.

    Args:
        source: The checkpoint file.
        out: The checkpoint to write.
        new_grid, mode: See :func:`mmpelk.models.state_dict.resize_stages`.

    Returns:
        One line of text for each stage, which says how it was resized.

    Raises:
        InputError: If the checkpoint cannot be read, has no kernels of a PeLK, or they cannot be resized.
    """
    checkpoint = read_checkpoint(source)
    weights = model_weights(checkpoint)
    kernels = [name for name in weights if name.endswith('token_mixer.large.weight')]
    if not kernels:
        raise InputError(f'checkpoint {source} has no kernels of a PeLK (stages.*.*.token_mixer.large.weight)')
    for name in kernels:
        half_name = name.replace('.weight', '.half_grid')
        if half_name not in weights:
            raise InputError(f'checkpoint {source} has no {half_name}, which defines the grid of {name}')
    try:
        stages = resize_stages(weights, new_grid, mode)
    except InputError as error:
        raise InputError(f'checkpoint {source}: {error}') from error
    write_checkpoint(dict(state_dict=weights, meta=checkpoint.get('meta', {})), out)
    lines = []
    for name, (old, new) in stages.items():
        sizes = f'{old.kernel_size}x{old.kernel_size} resized to {new.kernel_size}x{new.kernel_size}'
        lines.append(f'{name}*: kernels {sizes}, half grid {list(old.half)} to {list(new.half)}, mode {mode!r}')
    return lines
