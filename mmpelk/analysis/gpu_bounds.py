"""Count what designs of GPU kernels do for each output, and bound their times on two GPUs. Nothing here is measured.

The backend ``triton`` multiplies means of rows by Toeplitz factors on tensor cores, and both are staged in shared memory. The backend
``taps`` computes multiply-adds on prefix sums in registers. Two variants of ``triton`` are counted that would read fewer factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from mmpelk.ops.backends import triton as backend
from mmpelk.ops.backends.triton import taps
from mmpelk.ops.cells import crop

from .operator_benchmark import GPU_SHAPES, Shape, default_grid


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU, from the vendor's data sheets, per second.

    Attributes:
        products: Multiply-adds on tensor cores, by bytes of the type: half types, and float32 as tf32.
        fused: Multiply-adds in float32 outside the tensor cores.
        slots: Instructions, counted by thread.
        l1: Bytes to and from shared memory and L1.
        l2, memory: Bytes to and from the L2 cache and memory.
        warps: Warps that compute a product together: 1 with the instruction mma of sm_80, 4 with wgmma of sm_90.
    """

    name: str
    products: dict[int, float]
    fused: float
    slots: float
    l1: float
    l2: float
    memory: float
    warps: int


def _gpu(name: str, sms: int, clock: float, half: float, fused: int, memory: float, warps: int) -> Gpu:
    """Return the peaks, given the SMs, their clock, and the multiply-adds of an SM in float32 for each clock.

    An SM issues 4 instructions of 32 threads for each clock. Shared memory has 32 banks, each of which moves 4 bytes for each clock
    (CUDA Programming Guide, "Shared Memory Access Patterns"), and is one unit with L1 (Ampere Tuning Guide, 1.4.2.3).
    """
    products = {2: half, 4: half / 2}
    return Gpu(name, products, sms * fused * clock, sms * 128 * clock, sms * 128 * clock, 5120 * clock, memory, warps)


GPUS = (_gpu('A100', 108, 1.41e9, 156e12, 64, 2.0e12, 1), _gpu('H100', 132, 1.98e9, 495e12, 128, 3.35e12, 4))
# Instructions for each mean that 'taps' loads: the load, its mask, its address, and the addition to the prefix sum.
PER_LOAD = 4
# Instructions that split a float32 factor into two tf32 numbers: a rounding and a subtraction.
PER_SPLIT = 2
# Bytes that a thread copies asynchronously, and that a warp loads from shared memory, with one instruction.
COPY_BYTES, LDMATRIX_BYTES = 16, 512
# Kernels of torch that compute the differences of the weights for 'taps'.
PREPARING_TAPS = 5


@dataclass(frozen=True)
class Work:
    """What a design does for the forward pass of one shape.

    Attributes:
        products: Multiply-adds on tensor cores. float32 takes three tf32 products.
        fused: Multiply-adds outside them.
        slots: Instructions by thread.
        l1: Bytes that are written to shared memory, and read from it and from L1.
        l2: Bytes that the programs read, and the maps of means that are written.
        memory: Bytes to and from memory if the maps of means stay in the L2 cache.
        launches: Kernels that are launched. Their time is not part of the bounds.
        registers: Registers of a thread that hold sums. The other registers are not counted.
    """

    products: float = 0
    fused: float = 0
    slots: float = 0
    l1: float = 0
    l2: float = 0
    memory: float = 0
    launches: int = 0
    registers: int = 0

    def bounds(self, gpu: Gpu, itemsize: int) -> dict[str, float]:
        """Return the least time in microseconds that each resource needs."""
        times = dict(
            products=self.products / gpu.products[itemsize],
            fused=self.fused / gpu.fused,
            slots=self.slots / gpu.slots,
            L1=self.l1 / gpu.l1,
            L2=self.l2 / gpu.l2,
            memory=self.memory / gpu.memory,
        )
        return {name: 1e6 * time for name, time in times.items()}


def product_work(shape: Shape, dtype: torch.dtype, gpu: Gpu, more_rows: int = 1, channels: int = 1) -> Work:
    """Count the work of the backend 'triton' with its first block, or of a variant.

    A program copies the means of some rows, and the factors of a row of cells, to shared memory, and multiplies them; and so on for all
    rows of cells and all columns that they reach.

    Args:
        shape: (N, C, H = W, K).
        dtype: Type of the map.
        gpu: Its instructions determine what is read from shared memory.
        more_rows: How many times as many rows a block has. They share the factors.
        channels: Channels of a product. Each has its own factors, so those of other channels are zeros, which are not read from L2.
    """
    n, c, size, _ = shape
    cells = _cells(shape)
    rows, columns, sources, warps, _ = backend.blocks('correlate', dtype, size)[0]
    rows *= more_rows
    read = sources * sum(-(-(end - begin // sources * sources) // sources) for begin, end in _reached(size, columns, cells))
    steps = -(-c // channels) * -(-n * size // rows) * len(cells) * read // sources
    means, factors = rows * channels * sources, channels**2 * sources * columns
    products = steps * means * channels * columns * (3 if dtype == torch.float32 else 1)
    # A block is divided among the warps, or groups of 4 warps. Each reads the means of its rows and the factors of its columns.
    units = warps // gpu.warps
    loads = min(means * side + factors * (units // side) for side in range(1, units + 1) if units % side == 0)
    # On sm_80, an instruction multiplies 16 rows by 8 columns, and warps load both factors into registers first. On sm_90, it multiplies
    # by all columns, and reads shared memory itself. The depth of both is 32 bytes.
    width = 8 if gpu.warps == 1 else channels * columns
    instructions = products / (16 * width * 32 // dtype.itemsize)
    if gpu.warps == 1:
        instructions += steps * loads * dtype.itemsize / LDMATRIX_BYTES
    slots = 32 * instructions + steps * (means + factors) * dtype.itemsize / COPY_BYTES
    if dtype == torch.float32:
        slots += PER_SPLIT * steps * (means + factors)
    from_l2 = c * _rows_read(shape, rows)[0] * read + steps * factors / channels
    return Work(
        products=products,
        slots=slots,
        l1=_means_l1(shape, dtype) + steps * (means + factors + loads) * dtype.itemsize,
        l2=_means_l2(shape, dtype) + from_l2 * dtype.itemsize,
        memory=_memory(shape, dtype),
        launches=1 + 2 * len(list(backend.channel_parts(*_means(shape, dtype)))),
        registers=rows * channels * columns // (32 * warps),
    )


def taps_work(shape: Shape, dtype: torch.dtype, block: Sequence[int] | None = None) -> Work:
    """Count the work of the backend 'taps' with its first block, or another one.

    Its loads pass through L1. A program reads a row of means from L2 once at best, although several rows of cells use it.
    """
    n, c, size, _ = shape
    cells = _cells(shape)
    rows, channels, columns, warps = block or taps.blocks(size)[0]
    threads = (
        -(-c // channels) * channels * -(-n * size // rows) * rows * -(-size // columns)
    )  # that compute `columns` outputs each
    weights = len(cells) * (len(cells) + 1)
    fused = threads * columns * weights
    loads = threads * len(cells) * (columns + sum(cells) - 1)
    read = sum(end - begin for begin, end in _reached(size, columns, cells))
    used, distinct = _rows_read(shape, rows)
    return Work(
        fused=fused,
        slots=fused + PER_LOAD * loads + threads * weights,
        # A load of a warp takes a clock, in which L1 could deliver 4 bytes to each thread, for half types as well.
        l1=_means_l1(shape, dtype) + 4 * (c * used * read + threads * weights),
        l2=_means_l2(shape, dtype) + c * distinct * read * dtype.itemsize + 4 * threads // rows * weights,
        memory=_memory(shape, dtype),
        launches=PREPARING_TAPS + 2 * -(-n // taps.images_at_once(*_means(shape, dtype))),
        registers=rows * channels * columns // (32 * warps),
    )


def _cells(shape: Shape) -> tuple[int, ...]:
    """Return the cells of the kernel, cropped to the map."""
    return crop(default_grid(shape[3]).cells, shape[2])[0]


def _reached(size: int, columns: int, cells: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first column of the map that each block of columns reads, and the end."""
    reach = sum(cells) // 2
    return [(max(first - reach, 0), min(size, first + columns + reach)) for first in range(0, size, columns)]


@cache
def _rows_read(shape: Shape, rows: int) -> tuple[int, int]:
    """Return how many rows of means all blocks of ``rows`` rows of a channel use, and how many of them differ within a block."""
    n, _, size, _ = shape
    cells = backend.row_cells(_cells(shape), torch.device('cpu'))
    kinds, shifts = cells.kinds.tolist(), cells.shifts.tolist()
    used, distinct = 0, set()
    for row in range(n * size):
        for kind, shift in zip(kinds, shifts, strict=True):
            if 0 <= row % size + shift < size + cells.pad:
                used += 1
                distinct.add((row // rows, kind, row // size, row % size + shift))
    return used, len(distinct)


def _means(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, int, int]:
    """Return a map without values, the number of its maps of means, and the rows that are added to them."""
    n, c, size, _ = shape
    cells = _cells(shape)
    return torch.empty(n, c, size, size, dtype=dtype, device='meta'), len(set(cells)), max(cells) - 1


def _means_l2(shape: Shape, dtype: torch.dtype) -> int:
    """Count the bytes of the maps of means."""
    x, kinds, pad = _means(shape, dtype)
    return x.numel() // x.shape[2] * (x.shape[2] + pad) * kinds * dtype.itemsize


def _means_l1(shape: Shape, dtype: torch.dtype) -> int:
    """Count the bytes that are read and written through L1 to compute the means: the largest height once for each position."""
    _, kinds, pad = _means(shape, dtype)
    return _means_l2(shape, dtype) // kinds * (pad + 1 + kinds)


def _memory(shape: Shape, dtype: torch.dtype) -> int:
    """Count the bytes of the input and the output."""
    n, c, size, _ = shape
    return 2 * n * c * size * size * dtype.itemsize


def bound_lines(shapes: Sequence[Shape] = GPU_SHAPES) -> list[str]:
    """Return a table of the counts and bounds. The two numbers of a cell are for the two GPUs."""
    both = ' / '.join(gpu.name for gpu in GPUS)
    names = ['(N, C, H = W, K)', 'type', 'design', 'multiply-adds', f'instructions, {both}', f'L1 bytes, {both}', 'L2 bytes']
    names += ['registers', 'launches', *(f'{gpu.name}, us' for gpu in GPUS), f'copy, {both}, us']
    lines = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            designs = {
                'triton': [product_work(shape, dtype, gpu) for gpu in GPUS],
                'taps': [taps_work(shape, dtype)] * len(GPUS),
                'twice the rows': [product_work(shape, dtype, gpu, more_rows=2) for gpu in GPUS],
                'two channels': [product_work(shape, dtype, gpu, channels=2) for gpu in GPUS],
            }
            for name, works in designs.items():
                outputs, work = shape[0] * shape[1] * shape[2] ** 2, works[0]
                cells = [str(shape), str(dtype).removeprefix('torch.'), name, f'{(work.products + work.fused) / outputs:.0f}']
                cells += [' / '.join(f'{getattr(w, count) / outputs:.0f}' for w in works) for count in ('slots', 'l1')]
                cells += [f'{work.l2 / outputs:.0f}', str(work.registers), str(work.launches)]
                bounds = [w.bounds(gpu, dtype.itemsize) for w, gpu in zip(works, GPUS, strict=True)]
                for times in bounds:
                    limit = max(times, key=times.__getitem__)
                    cells.append(f'{times[limit]:.0f} ({limit})')
                cells.append(' / '.join(f'{times["memory"]:.0f}' for times in bounds))
                lines.append(f'| {" | ".join(cells)} |')
    return lines
