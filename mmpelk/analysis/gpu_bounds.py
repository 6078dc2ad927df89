"""Count what the GPU backends do for each output, and bound their times on two GPUs. Nothing here is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        memory, cache: Bytes from memory and from the L2 cache.
    """

    name: str
    products: dict[int, float]
    fused: float
    slots: float
    memory: float
    cache: float


GPUS = (
    Gpu('A100', {2: 156e12, 4: 78e12}, 108 * 64 * 1.41e9, 108 * 128 * 1.41e9, 2.0e12, 5120 * 1.41e9),
    Gpu('H100', {2: 495e12, 4: 247e12}, 132 * 128 * 1.98e9, 132 * 128 * 1.98e9, 3.35e12, 5120 * 1.98e9),
)
# Instructions for each value that 'taps' loads: the load, its mask, its address, and the addition to the prefix sum.
PER_LOAD = 4
# Kernels of torch that compute the differences of the weights for 'taps'.
PREPARING_TAPS = 5


@dataclass(frozen=True)
class Work:
    """What a backend does for the forward pass of one shape.

    Attributes:
        products: Multiply-adds on tensor cores. float32 takes three tf32 products.
        fused: Multiply-adds outside them.
        slots: Instructions by thread, for 'taps' only.
        memory: Bytes to and from memory if the maps of means stay in the cache.
        cache: Bytes that the programs read, and the maps of means that are written.
        launches: Kernels that are launched. Their time is not part of the bounds.
    """

    products: float = 0
    fused: float = 0
    slots: float = 0
    memory: float = 0
    cache: float = 0
    launches: int = 0

    def bounds(self, gpu: Gpu, itemsize: int) -> dict[str, float]:
        """Return the least time in microseconds that each resource needs."""
        times = dict(
            products=self.products / gpu.products[itemsize],
            fused=self.fused / gpu.fused,
            slots=self.slots / gpu.slots,
            memory=self.memory / gpu.memory,
            cache=self.cache / gpu.cache,
        )
        return {name: 1e6 * time for name, time in times.items()}


def product_work(shape: Shape, dtype: torch.dtype) -> Work:
    """Count the work of the backend 'triton' with its first block."""
    n, c, size, _ = shape
    cells, base = _common(shape, dtype)
    rows, columns, sources, *_ = backend.blocks('correlate', dtype, size)[0]
    reach = sum(cells) // 2
    # All column blocks of a row: what they read, and what they compute.
    firsts = range(0, size, columns)
    chunks = [
        -(-(min(size, first + columns + reach) - max(first - reach, 0) // sources * sources) // sources) for first in firsts
    ]
    read = sum(chunks) * sources
    products = n * c * size * len(cells) * read * columns * (3 if dtype == torch.float32 else 1)
    maps = n * c * size * len(cells) * read
    factors = c * -(-n * size // rows) * len(cells) * read * columns
    parts = len(list(backend.channel_parts(*_means(shape, dtype, cells))))
    return Work(
        products=products, memory=base.memory, cache=base.cache + (maps + factors) * dtype.itemsize, launches=1 + 2 * parts
    )


def taps_work(shape: Shape, dtype: torch.dtype, block: Sequence[int] | None = None) -> Work:
    """Count the work of the backend 'taps' with its first block, or another one."""
    n, c, size, _ = shape
    cells, base = _common(shape, dtype)
    _, channels, columns, _ = block or taps.blocks(size)[0]
    computed = n * -(-c // channels) * channels * size * -(-size // columns) * columns
    fused = computed * len(cells) * (len(cells) + 1)
    loads = computed * len(cells) * (columns + sum(cells) - 1) / columns
    return Work(
        fused=fused,
        slots=fused + PER_LOAD * loads,
        memory=base.memory,
        cache=base.cache + loads * dtype.itemsize,
        launches=PREPARING_TAPS + 2 * -(-n // taps.images_at_once(*_means(shape, dtype, cells))),
    )


def _means(shape: Shape, dtype: torch.dtype, cells: Sequence[int]) -> tuple[torch.Tensor, int, int]:
    """Return a map without values, the number of its maps of means, and the rows that are added to them."""
    n, c, size, _ = shape
    return torch.empty(n, c, size, size, dtype=dtype, device='meta'), len(set(cells)), max(cells) - 1


def _common(shape: Shape, dtype: torch.dtype) -> tuple[tuple[int, ...], Work]:
    """Return the cropped cells, and the bytes that both backends move."""
    n, c, size, k = shape
    cells = crop(default_grid(k).cells, size)[0]
    outputs = n * c * size * size
    written = n * c * len(set(cells)) * (size + max(cells) - 1) * size
    return cells, Work(memory=2 * outputs * dtype.itemsize, cache=written * dtype.itemsize)


def bound_lines(shapes: Sequence[Shape] = GPU_SHAPES) -> list[str]:
    """Return a table of the counts and bounds."""
    names = ['(N, C, H = W, K)', 'type', 'backend', 'multiply-adds an output', 'bytes from L2 an output', 'launches']
    names += [f'{gpu.name}, us' for gpu in GPUS] + [f'{gpu.name}, copy of the map' for gpu in GPUS]
    lines = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for name, work in (('triton', product_work(shape, dtype)), ('taps', taps_work(shape, dtype))):
                outputs = shape[0] * shape[1] * shape[2] ** 2
                cells = [str(shape), str(dtype).removeprefix('torch.'), name]
                cells += [f'{(work.products + work.fused) / outputs:.0f}', f'{work.cache / outputs:.0f}', str(work.launches)]
                for gpu in GPUS:
                    bounds = work.bounds(gpu, dtype.itemsize)
                    limit = max(bounds, key=bounds.__getitem__)
                    cells.append(f'{bounds[limit]:.0f} ({limit})')
                cells += [f'{work.bounds(gpu, dtype.itemsize)["memory"]:.0f}' for gpu in GPUS]
                lines.append(f'| {" | ".join(cells)} |')
    return lines
