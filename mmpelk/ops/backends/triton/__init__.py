"""The structured evaluation on the tensor cores of GPUs (``kernels.py``).

Triton comes with torch's CUDA builds and is imported on first use. A float32 product is computed as three tf32 products, which keeps
its accuracy. Half types are multiplied without conversion. All sums are float32.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, partial
from itertools import accumulate
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from mmpelk.ops.autotune import may_measure
from mmpelk.utils.errors import InputError, first_line

TYPES = (torch.float32, torch.bfloat16, torch.float16)
_FAILURES: dict[tuple[Callable, torch.device, torch.dtype], str | None] = {}
LOCK = threading.Lock()  # Triton's autotuner stores the arguments of a call in itself
# (rows, columns, source columns, warps, stages) of a program of each kernel, for types of 2 and of 4 bytes. Triton times them once for
# each class of sizes. The first is used where timing is not allowed. Columns are cut to the map. ``blocks`` returns them.
BLOCKS = {
    ('correlate', 2): ((128, 128, 64, 8, 3), (64, 64, 64, 4, 4), (128, 64, 64, 8, 3), (64, 128, 32, 8, 4)),
    ('correlate', 4): ((64, 64, 32, 4, 3), (128, 64, 32, 8, 3), (64, 128, 16, 8, 3), (32, 64, 32, 4, 4)),
    ('weight_grad', 2): ((64, 64, 64, 4, 4), (128, 64, 64, 8, 3), (32, 64, 64, 4, 4)),
    ('weight_grad', 4): ((32, 64, 32, 4, 3), (64, 64, 32, 8, 3), (32, 64, 32, 8, 3)),
}
# The block that was the fastest for a kernel, its arguments' type, and a class of sizes.
_FASTEST: dict[tuple, tuple[int, ...]] = {}
# The maps of means are written and read again in parts of this size, which the L2 cache of an A100 or H100 can hold.
MAX_MAPS_BYTES = 2**25
ALIGNMENT = 16
MAX_POSITIONS = 2**31 - 1


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run there, or None if it can."""
    return why_unavailable(device, dtype, _probe)


def why_unavailable(device: torch.device, dtype: torch.dtype, probe: Callable[[Tensor], None]) -> str | None:
    """Return why kernels of Triton cannot run there, or None if ``probe`` runs them on a map of one position."""
    if dtype not in TYPES:
        return f'it computes in float32, which would round {dtype}'
    if device.type != 'cuda' and not (device.type == 'cpu' and os.environ.get('TRITON_INTERPRET') == '1'):
        return "it runs only on GPUs (and for tests on CPUs, in Triton's interpreter, with TRITON_INTERPRET=1)"
    return _failure(device, dtype, probe)


def _probe(x: Tensor) -> None:
    _correlate(x, x, None, (1,), (1,), torch.empty_like(x), tune=False)
    _weight_grad(x, x, (1,), (1,), tune=False).item()


def _failure(device: torch.device, dtype: torch.dtype, probe: Callable[[Tensor], None]) -> str | None:
    """Compile the kernels and run them on a map of one position. Return the error, or None if all work.

    Typical errors are a missing Triton, an incompatible version of Triton, and a GPU that is too old.
    """
    key = probe, device, dtype
    if key in _FAILURES:
        return _FAILURES[key]
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        return 'it was not tested before the capture of this CUDA graph began'
    failure = None
    try:
        import triton

        if triton.__version__.startswith('2.'):
            failure = f'Triton {triton.__version__} is too old; the kernels need Triton 3 or newer'
        else:
            probe(torch.zeros(1, 1, 1, 1, device=device, dtype=dtype))
    except torch.cuda.OutOfMemoryError as error:
        return f'{device} has no memory left ({first_line(error)})'  # this can change, so it is not stored
    except ImportError as error:
        failure = f'Triton cannot be imported ({error})'
    except Exception as error:  # any error: use another backend
        failure = f'Triton {triton.__version__} cannot run its kernels on {device} ({type(error).__name__}: {first_line(error)})'
    _FAILURES[key] = failure
    return failure


def details() -> str:
    """Return the version of Triton."""
    import triton

    return f' (Triton {triton.__version__})'


def cost(input: Tensor, rows: Sequence[int], columns: Sequence[int], backward: bool) -> float:
    """Return infinity. Times are predicted only on CPUs, where Triton is interpreted and never the fastest."""
    return math.inf


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], out: Tensor | None = None
) -> Tensor:
    """Compute the depthwise 'same' correlation in the input's type. Without ``out``, the result is contiguous.

    The input is read in any memory layout. ``out`` is written directly if its columns are adjacent in memory.
    """
    direct = out is not None and out.stride(3) == 1
    y = out if direct else torch.empty_like(input, memory_format=torch.contiguous_format)
    _correlate(input, weight, bias, rows, columns, y, may_measure(input.device))
    return y if out is None or direct else out.copy_(y)


def weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Compute the gradient of the weight. Both maps are read in any memory layout."""
    return _weight_grad(input, grad.to(input.dtype), rows, columns, may_measure(input.device)).to(input.dtype)


def _correlate(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], y: Tensor, tune: bool
) -> None:
    """Write the output into ``y``, whose columns are adjacent in memory."""
    n, _, h, w = x.shape
    if n == 0:
        return
    cells = row_cells(tuple(rows), x.device)
    taps, reach, shifts = sum(columns), sum(columns) // 2, ALIGNMENT // x.element_size()
    choices = blocks('correlate', x.dtype, w)
    # No output column of a block is farther than this from a source column that it reads.
    offset = padded(reach + max(block[1] + block[2] for block in choices))
    c = weight.shape[0]
    factors = x.new_empty(c, len(rows), shifts, 2 * offset)
    with LOCK, on_device(x.device):
        _kernels().spread_taps[(c * len(rows),)](
            weight, cells.sizes, _cell_of_tap(tuple(columns), x.device), factors, len(rows), len(columns), taps, offset,
            weight.stride(0), *weight.stride()[2:], 2 * offset, SHIFTS=shifts, BLOCK=128,
        )  # fmt: skip
    # Without a bias, any pointer: HAS_BIAS is False and nothing reads it.
    biases = factors if bias is None else bias.float().contiguous()
    for part in channel_parts(x, len(cells.heights), cells.pad):
        result, used = y[:, part], factors[part]
        c = len(used)

        def grid(block: dict, c: int = c) -> tuple[int]:
            return (c * -(-n * h // block['ROWS']) * -(-w // block['COLUMNS']),)

        with LOCK, on_device(x.device):
            maps = box_means(x[:, part], cells.heights, cells.pad)
            launch(
                _correlate_kernel, choices, tune, grid, maps, used, biases[part], result, cells.kinds, cells.shifts,
                n, c, h, w, len(rows), len(cells.heights), reach, offset, *maps.shape[3:], 2 * offset, *result.stride()[:3],
                size_class(n * h * w, w, taps), HAS_BIAS=bias is not None, PRECISION=_precision(x.device), SHIFTS=shifts,
            )  # fmt: skip


def _weight_grad(x: Tensor, up: Tensor, rows: Sequence[int], columns: Sequence[int], tune: bool) -> Tensor:
    """Compute the weight's gradient, (C, 1, len(rows), len(columns)), float32.

    Blocks of columns are summed separately, and then the blocks are summed in a fixed order.
    """
    n, _, h, w = x.shape
    cells, taps = row_cells(tuple(rows), x.device), sum(columns)
    lefts, widths = _starts_and_sizes(tuple(columns), x.device)
    choices = blocks('weight_grad', x.dtype, w)
    width, sources = choices[0][1:3]  # all blocks have the same columns
    reached = width + taps - 1 + sources - 1  # the first chunk can start before the first column that is reached
    chunks = min(-(-w // sources), reached // sources + 1)
    programs = -(-w // width) * chunks
    grads = []
    for part in channel_parts(x, len(cells.heights) + 1, cells.pad):
        with LOCK, on_device(x.device):
            maps, ups = box_means(x[:, part], cells.heights, cells.pad), box_means(up[:, part], (1,), 0)
            c = maps.shape[0]
            sums = x.new_empty(c, len(rows), programs, len(columns), dtype=torch.float32)
            launch(
                _weight_grad_kernel, choices, tune, (c * len(rows) * programs,), maps, ups, sums, cells.kinds,
                cells.shifts, cells.sizes, lefts, widths, n, h, w, len(rows), len(columns), len(cells.heights), taps, chunks,
                *maps.shape[3:], size_class(n * h * w, w, taps), PRECISION=_precision(x.device),
            )  # fmt: skip
        grads.append(sums.sum(2))
    return torch.cat(grads)[:, None]


def box_means(x: Tensor, heights: tuple[int, ...], pad: int, channels_last: bool = False) -> Tensor:
    """Average the map over boxes of rows. See ``kernels.box_means``.

    Args:
        x: (N, C, H, W) in any layout.
        heights: The distinct heights of the boxes, increasing.
        pad: The largest height minus 1.
        channels_last: Whether the channels of the result are adjacent in memory, instead of the columns.

    Returns:
        (C, len(heights), N, H + pad, W rounded up to a multiple of 16), or (len(heights), N, H + pad, W, C rounded up) if
        ``channels_last``.

    Raises:
        InputError: If the positions exceed 32-bit numbers, which the kernels count them with. 64-bit numbers would take so many
            registers that ``kernels.correlate`` spills.
    """
    n, c, h, w = x.shape
    if channels_last:
        maps = x.new_empty(len(heights), n, h + pad, w, padded(c))
        strides = 1, *maps.stride()[:2], maps.shape[4]
    else:
        maps = x.new_empty(c, len(heights), n, h + pad, padded(w))
        strides = *maps.stride()[:3], 1
    pitch = maps.shape[3] if channels_last else maps.shape[4]
    size = (h + pad) * pitch
    # The other kernels count the positions of all images of a channel, except for taps.
    if (size if channels_last else n * size) > MAX_POSITIONS:
        raise InputError(f'the Triton kernels compute at most {MAX_POSITIONS} positions at once, got {n} maps of {h} x {w}')
    # A warp reads adjacent numbers: columns, or channels in channels_last.
    channels, positions = (32, 32) if channels_last or x.stride(3) != 1 else (1, 1024)
    blocks = -(-size // positions)
    _kernels().box_means[(blocks * n * -(-c // channels),)](
        x, int32(heights, x.device), maps, blocks, n, c, h, w, len(heights), pad, *x.stride(), h + pad, pitch, *strides,
        CHANNELS=channels, POSITIONS=positions,
    )  # fmt: skip
    return maps


def channel_parts(x: Tensor, kinds: int, pad: int) -> Iterator[slice]:
    """Yield slices of channels whose maps of means need at most ``MAX_MAPS_BYTES``."""
    n, channels, h, w = x.shape
    step = max(1, MAX_MAPS_BYTES // max(1, kinds * n * (h + pad) * padded(w) * x.element_size()))
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


def _kernels() -> ModuleType:
    from . import kernels

    return kernels


def launch(
    kernel: Callable, blocks: tuple[tuple[int, ...], ...], tune: bool, grid: object, *arguments: object, **constants: object
) -> None:
    """Launch a kernel with the fastest of its blocks.

    Where nothing may be timed, as while a CUDA graph is captured, the block of an earlier call is used, or the first one. In
    deterministic mode it is always the first one.

    Args:
        kernel: Returns the kernel with Triton's autotuner for given blocks.
        blocks: Blocks to choose from.
        tune: Whether Triton may time them, once for each class of sizes.
        grid: Number of programs, or a function of the block that returns it.
        arguments: Arguments of the kernel. The last one is the class of sizes.
        constants: Constants of the kernel.
    """
    first = arguments[0]
    key = kernel, blocks, first.device, first.dtype, arguments[-1], *constants.values()
    if not tune:
        blocks = (blocks[0] if torch.are_deterministic_algorithms_enabled() else _FASTEST.get(key, blocks[0]),)
    tuned = kernel(blocks)
    tuned[grid](*arguments, **constants)
    if tune and key not in _FASTEST:
        _FASTEST[key] = blocks[tuned.configs.index(tuned.best_config)]


@cache
def _autotuner(name: str, blocks: tuple[tuple[int, ...], ...]) -> Callable:
    """Return a kernel that uses the fastest of ``blocks``."""
    import triton

    configs = [
        triton.Config(dict(ROWS=rows, COLUMNS=columns, SOURCES=sources), num_warps=warps, num_stages=stages)
        for rows, columns, sources, warps, stages in blocks
    ]
    return triton.autotune(configs, key=['size_class'], **autotune_options())(getattr(_kernels(), name))


_correlate_kernel, _weight_grad_kernel = partial(_autotuner, 'correlate'), partial(_autotuner, 'weight_grad')


@cache
def autotune_options() -> dict[str, bool]:
    """Return the options of Triton's autotuner. Where it can, it keeps its times in a file beside the compiled kernels."""
    import triton

    return dict(cache_results=True) if 'cache_results' in inspect.signature(triton.autotune).parameters else {}


@cache
def blocks(name: str, dtype: torch.dtype, width: int) -> tuple[tuple[int, ...], ...]:
    """Return the blocks of a kernel for a type. Columns are cut to the map: powers of 2, and at least 16, as tensor cores require."""
    least = max(16, 1 << (width - 1).bit_length())
    cut = [
        (rows, min(columns, least), min(sources, least), *rest) for rows, columns, sources, *rest in BLOCKS[name, dtype.itemsize]
    ]
    return tuple(dict.fromkeys(cut))


def padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def size_class(positions: int, width: int, taps: int) -> int:
    """Return one number for similar maps, so that Triton does not time its blocks for every image size.

    Similar are N x H x W within a factor of four, widths that are cut into blocks in the same way, and taps within a factor of two.
    """
    return (positions.bit_length() // 2 * 8 + min((width - 1).bit_length(), 7)) * 64 + taps.bit_length()


class RowCells(NamedTuple):
    """How rows of cells read the maps of means.

    Attributes:
        heights: The distinct heights of the cells, increasing.
        pad: The largest height minus 1, which is the number of rows of the maps above the first row of the input.
        kinds, shifts, sizes: For each row of cells, the index of its height, the row of the map relative to the output's row, and its
            height; int32 on the device.
    """

    heights: tuple[int, ...]
    pad: int
    kinds: Tensor
    shifts: Tensor
    sizes: Tensor


@lru_cache(maxsize=256)
def row_cells(cells: tuple[int, ...], device: torch.device) -> RowCells:
    heights = tuple(sorted(set(cells)))
    pad = heights[-1] - 1
    shifts = [start + pad for start in accumulate(cells[:-1], initial=-(sum(cells) // 2))]
    return RowCells(
        heights, pad, *(int32(tuple(values), device) for values in ([heights.index(size) for size in cells], shifts, cells))
    )


@lru_cache(maxsize=256)
def _starts_and_sizes(cells: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the starts of the cells and their sizes, both int32 on ``device``."""
    return int32(tuple(accumulate(cells[:-1], initial=0)), device), int32(cells, device)


@lru_cache(maxsize=256)
def _cell_of_tap(cells: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the index of the cell that contains each tap, int32 on ``device``."""
    return int32(tuple(index for index, size in enumerate(cells) for _ in range(size)), device)


@lru_cache(maxsize=256)
def int32(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # see cells._make_cell_index
        return torch.tensor(values, device=device, dtype=torch.int32)


def _precision(device: torch.device) -> str:
    """Return how to multiply float32: with three tf32 products on tensor cores, or directly, as AMD's compiler supports."""
    if device.type == 'cpu':
        return 'interpreted'
    return 'tf32x3' if torch.version.hip is None else 'ieee'


def on_device(device: torch.device) -> AbstractContextManager:
    """Return a context in which ``device`` is current, because Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()
