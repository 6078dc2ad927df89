"""Compare the speed of builds of the native library, in one process and in turns.

    python tests/ops/backends/native/compare.py BEFORE.so AFTER.so [--threads 2] [--seconds 1]

Prints medians in microseconds for the shapes of docs/benchmarks/op.md, and the ratios to the first build. 'slice' is the layout
in the backbone: the first 3/8 of the channels of a channels_last map. MMPELK_INSTRUCTION_SET selects the instruction set.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from mmpelk.ops import SharingGrid
from mmpelk.ops.backends import native
from mmpelk.ops.cells import crop

SHAPES = [
    (1, 46, 56, 51), (1, 46, 128, 51), (1, 46, 128, 101), (1, 93, 28, 49), (1, 187, 14, 47), (1, 187, 32, 47), (8, 46, 56, 51),
    (8, 187, 14, 47),
]  # fmt: skip


def main() -> None:
    """Print one line for each shape, layout, and pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('libraries', nargs='+', type=Path)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--seconds', type=float, default=1, help='per line')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = [native._Loaded(native._declare(ctypes.CDLL(str(path.resolve()))), path) for path in args.libraries]
    for n, c, size, kernel in SHAPES:
        cells, _ = crop(SharingGrid.peripheral(kernel).cells, size)
        weight = torch.randn(c, 1, len(cells), len(cells))
        for layout in ('contiguous', 'channels_last', 'slice'):
            x, out = (make(layout, n, c, size) for _ in range(2))
            passes = {
                'forward': lambda x=x, w=weight, cells=cells, out=out: native.forward(x, w, None, cells, cells, out=out),
                'weight gradient': lambda x=x, up=out, cells=cells: native.weight_grad(up, x, cells, cells),
            }
            for name, call in passes.items():
                times = measure(call, loaded, args.seconds)
                ratios = ' '.join(f'{value / times[0]:.2f}' for value in times[1:])
                values = ' '.join(f'{value:8.0f}' for value in times)
                print(f'{(n, c, size, kernel)!s:20} {layout:14} {name:16} {values}   {ratios}', flush=True)


def make(layout: str, n: int, c: int, size: int) -> torch.Tensor:
    """Return a random map."""
    if layout == 'contiguous':
        return torch.randn(n, c, size, size)
    channels = c * 8 // 3 if layout == 'slice' else c
    return torch.randn(n, channels, size, size).contiguous(memory_format=torch.channels_last)[:, :c]


def measure(call: Callable[[], object], loaded: list[native._Loaded], seconds: float) -> list[float]:
    """Return the median times in microseconds of the calls with each library."""
    times = [[] for _ in loaded]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for library, durations in zip(loaded, times, strict=True):
            with using(library):
                call()  # fills the caches
                start = time.perf_counter()
                call()
                durations.append(time.perf_counter() - start)
    return [1e6 * statistics.median(durations) for durations in times]


@contextmanager
def using(library: native._Loaded):
    """Let the backend use a library."""
    with mock.patch.object(native, '_load', lambda: library):
        yield


if __name__ == '__main__':
    main()
