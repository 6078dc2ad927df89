"""The structured evaluation on GPUs without tensor cores (``taps_kernel.py``), which does not depend on the speed of tf32 products.

The gradient of the weight is that of the backend ``triton``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops.autotune import may_measure
from mmpelk.utils.errors import InputError

from . import (
    LOCK,
    MAX_MAPS_BYTES,
    autotune_options,
    box_means,
    cost,
    details,
    launch,
    on_device,
    padded,
    row_cells,
    size_class,
    weight_grad,
    why_unavailable,
)
from . import unavailable as products_unavailable

__all__ = ['cost', 'details', 'forward', 'unavailable', 'weight_grad']

# (rows, channels, columns, warps) of a program. Triton times them once for each class of sizes. The first is used where timing is not
# allowed. Columns are cut to the map. More columns need fewer loads for each output, and more registers.
BLOCKS = ((8, 16, 32, 4), (8, 16, 16, 4))
# A kernel is compiled for each grid, and its code grows with the borders.
MAX_CELLS = 24
# Kernels that are cropped to the map are rounded up to a multiple of this radius, so that few of them are compiled.
RADIUS_STEP = 8


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can. The gradient of the weight needs the kernels of ``triton``."""
    return products_unavailable(device, dtype) or why_unavailable(device, dtype, _probe)


def _probe(x: Tensor) -> None:
    _taps(x, x, None, (1,), (1,), torch.empty_like(x), tune=False)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation in the input's type. Without ``out``, the result is in channels_last.

    The input is read in any memory layout. ``out`` is written directly if its channels are adjacent in memory.

    Raises:
        InputError: If a row of the kernel has more than ``MAX_CELLS`` cells.
    """
    if len(columns) > MAX_CELLS:
        raise InputError(f"backend 'taps' takes kernels of at most {MAX_CELLS} columns of cells, got {len(columns)}; use 'auto'")
    direct = out is not None and out.stride(1) == 1
    y = out if direct else torch.empty_like(input, memory_format=torch.channels_last)
    _taps(input, weight, bias, rows, widened(columns, input.shape[3]), y, may_measure(input.device))
    return y if out is None or direct else out.copy_(y)


def widened(columns: Sequence[int], width: int) -> tuple[int, ...]:
    """Widen the outermost cells of a kernel that reaches across the whole map. The added taps are outside the map at every position."""
    radius = sum(columns) // 2
    added = -radius % RADIUS_STEP if radius >= width - 1 else 0
    if len(columns) == 1:
        return (columns[0] + 2 * added,)
    return columns[0] + added, *columns[1:-1], columns[-1] + added


def _taps(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], y: Tensor, tune: bool
) -> None:
    """Write the output into ``y``, whose channels are adjacent in memory."""
    n, _, h, w = x.shape
    if n == 0:
        return
    c, cells = weight.shape[0], row_cells(tuple(rows), x.device)
    weights = F.pad(weight[:, 0].float() * cells.sizes[:, None], (1, 1))
    steps = F.pad(weights.diff().permute(1, 2, 0), (0, padded(c) - c)).contiguous()
    # Without a bias, any pointer: nothing reads it.
    bias, biases = (steps, 0) if bias is None else (bias.float().contiguous(), c)
    step = images_at_once(x, len(cells.heights), cells.pad)
    for maps_of, result in zip(x.split(step), y.split(step), strict=True):
        images = len(result)

        def grid(block: dict, images: int = images) -> tuple[int]:
            return (-(-c // block['CHANNELS']) * -(-images * h // block['ROWS']) * -(-w // block['COLUMNS']),)

        with LOCK, on_device(x.device):
            maps = box_means(maps_of, cells.heights, cells.pad, channels_last=True)
            launch(
                _kernel, blocks(w), tune, grid, maps, steps, bias, result, cells.kinds, cells.shifts, biases,
                images, c, h, w, len(rows), maps.shape[2], maps.shape[4], result.stride(0), result.stride(2), result.stride(3),
                size_class(images * h * w, w, sum(columns)), EDGES=(0, *accumulate(columns)),
            )  # fmt: skip


def images_at_once(x: Tensor, kinds: int, pad: int) -> int:
    """Return how many images' maps of means need at most ``MAX_MAPS_BYTES``.

    Parts of channels instead of images would leave threads idle.
    """
    _, c, h, w = x.shape
    return max(1, MAX_MAPS_BYTES // (kinds * (h + pad) * w * padded(c) * x.element_size()))


def blocks(width: int) -> tuple[tuple[int, ...], ...]:
    """Return the blocks with columns cut to a map's width, rounded up to a power of two."""
    least = 1 << (width - 1).bit_length()
    return tuple(dict.fromkeys((rows, channels, min(columns, least), warps) for rows, channels, columns, warps in BLOCKS))


@cache
def _kernel(blocks: tuple[tuple[int, ...], ...]) -> Callable:
    """Return the kernel, which uses the fastest of ``blocks``."""
    import triton

    from . import taps_kernel

    configs = [
        triton.Config(dict(ROWS=rows, CHANNELS=channels, COLUMNS=columns), num_warps=warps)
        for rows, channels, columns, warps in blocks
    ]
    return triton.autotune(configs, key=['size_class', 'EDGES'], **autotune_options())(taps_kernel.taps)
