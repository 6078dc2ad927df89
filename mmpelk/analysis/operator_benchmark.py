"""Time the peripheral convolution and the operators of other networks at the same width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops import SharingGrid, available_backends, peripheral_conv2d
from mmpelk.ops.cells import crop

from .benchmark_report import Report, Settings, measure
from .gpu_checks import TRITON_BACKENDS
from .timing import Timing

# (N, C, height = width, K).
Shape = tuple[int, int, int, int]
# The stages of PeLK-T at 224 and 512 pixels, for one image and for eight.
SHAPES = (
    (1, 46, 56, 51), (1, 46, 128, 51), (1, 46, 128, 101), (1, 93, 28, 49),
    (1, 187, 14, 47), (1, 187, 32, 47), (8, 46, 56, 51), (8, 187, 14, 47),
)  # fmt: skip
# A training batch for GPUs. The largest maps come first, with two kernel sizes.
GPU_SHAPES = ((16, 46, 128, 51), (16, 46, 128, 101), *((16, *shape[1:]) for shape in SHAPES[:6] if shape[2] != 128))
SWEEP = (7, 13, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 121, 131, 141, 151)
STRIPE = 5
# The size of the matrix product whose greatest speed in a run is taken as the device's peak rate of multiply-adds.
MATRIX = 1024


def default_shapes(device: torch.device | str) -> tuple[Shape, ...]:
    """Return the shapes to measure on a device."""
    return GPU_SHAPES if torch.device(device).type == 'cuda' else SHAPES


def benchmark_operator(shapes: Sequence[Shape], backward: bool, sweep: bool, settings: Settings) -> Report:
    """Time all calls of :func:`operator_calls` for each shape.

    Args:
        shapes: Shapes to measure.
        backward: Whether to run the backward pass too, for the input and the weight.
        sweep: Whether to measure the kernel sizes of ``SWEEP`` on the first shape instead.
        settings: Settings of the measurement.
    """
    if sweep:
        shapes = [(*shapes[0][:3], k) for k in SWEEP]
    measured = {
        shape: measure(operator_calls(shape, backward, settings.device, settings.dtype), settings, str(shape)) for shape in shapes
    }
    name = 'op' + ('_backward' if backward else '') + ('_sweep' if sweep else '')
    title = f'milliseconds, {"forward and backward" if backward else "forward"}'
    lines = [*_times_table(measured), '', *work_table(measured, backward, settings.dtype)]
    results = [
        dict(shape=shape, **operator_work(shape, backward), **{key: asdict(value) for key, value in times.items()})
        for shape, times in measured.items()
    ]
    return Report(name, title, lines, results, settings)


def _times_table(measured: dict[Shape, dict[str, Timing]]) -> list[str]:
    """Format the median times and their ratios."""
    names = list(next(iter(measured.values())))
    lines = [f'| (N, C, H = W, K) | {" | ".join(names)} | F.conv2d : auto | 7x7 : auto | both channels_last |']
    lines.append('|---' * (len(names) + 4) + '|')
    for shape, times in measured.items():
        cells = [f'{times[name].median:.3g}' for name in names]
        last = times['7x7, 8/3 C, channels_last'].median / times['auto, channels_last'].median
        ratios = [f'{times[name].median / times["auto"].median:.2f}' for name in ('F.conv2d', '7x7, 8/3 C')]
        lines.append(f'| {shape} | {" | ".join((*cells, *ratios, f"{last:.2f}"))} |')
    return lines


def work_table(measured: dict[Shape, dict[str, Timing]], backward: bool, dtype: torch.dtype) -> list[str]:
    """Format the minimum work of each shape, and the ratio of the time of 'auto' to the resulting limit."""
    # The machine has one peak. The matrix products of the shapes differ by noise.
    product = min(times['matrix product'].median for times in measured.values())
    lines = [
        f'The limit is the time of the structured multiply-adds at the speed of the fastest {MATRIX}x{MATRIX} matrix product of the run',
        f'({product:.3g} ms), or of a copy of the map if that is longer. MB counts the numbers of the maps that are read and written.',
        '',
        '| (N, C, H = W, K) | MB | copy (ms) | dense GMAC | structured GMAC | limit (ms) | auto : limit | channels_last : limit |',
    ]
    lines.append('|---' * 8 + '|')
    for shape, times in measured.items():
        work, copy = operator_work(shape, backward), times['copy'].median
        size = work['values'] * dtype.itemsize / 1e6
        limit = max(copy, work['structured'] / MATRIX**3 * product)
        ratios = [f'{times[name].median / limit:.2f}' for name in ('auto', 'auto, channels_last')]
        lines.append(
            f'| {shape} | {size:.3g} | {copy:.3g} | {work["dense"] / 1e9:.3g} | {work["structured"] / 1e9:.3g} | {limit:.3g} '
            f'| {" | ".join(ratios)} |'
        )
    return lines


def operator_calls(
    shape: Shape, backward: bool, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> dict[str, Callable[[], object]]:
    """Prepare the calls to compare, by name.

    These are the peripheral convolution with every backend (with 'auto' and Triton's backends also in channels_last), and the operators
    of other networks of the same width, which convolve all 8/3 C channels: ConvNeXt's 7x7 kernel and SLaK's stripes. 'copy' reads and
    writes the map, which is the lower bound set by memory. 'matrix product' is the lower bound set by arithmetic, for MATRIX^3
    multiply-adds. RepLKNet's implicit GEMM is included if it is installed. On a GPU, each call uses the next of several inputs,
    which together exceed the cache.

    Args:
        shape: (N, C, H = W, K).
        backward: Whether to run the backward pass too, for the input and the weight.
        device: Device on which the calls run.
        dtype: Type of the input and the weight.
    """
    n, c, size, k = shape
    grid = default_grid(k)
    wide = -(-8 * c // 3)

    def case(channels: int, kernels: list[tuple[int, int]], run: Callable, last: bool = False) -> Callable[[], object]:
        layout = torch.channels_last if last else torch.contiguous_format
        generator = torch.Generator(device).manual_seed(0)
        x, up = (torch.randn(n, channels, size, size, device=device, generator=generator) for _ in range(2))
        weights = [torch.randn(channels, 1, *kernel, device=device, generator=generator).to(dtype) for kernel in kernels]
        copies = copies_beyond_cache(x.numel() * dtype.itemsize, device)
        maps = cycle([[t.to(dtype, memory_format=layout, copy=True) for t in (x, up)] for _ in range(copies)])

        def forward() -> object:
            return run(next(maps)[0], *weights)

        def forward_and_backward() -> object:
            x, up = next(maps)
            leaves = [x.requires_grad_(), *(weight.requires_grad_() for weight in weights)]
            return torch.autograd.grad(run(x, *weights), leaves, up)

        return forward_and_backward if backward else torch.no_grad()(forward)

    def depthwise(x: Tensor, *weights: Tensor) -> Tensor:
        return sum(F.conv2d(x, w, padding=(w.shape[2] // 2, w.shape[3] // 2), groups=x.shape[1]) for w in weights)

    small = [(grid.weight_size,) * 2]
    calls = {'auto': case(c, small, partial(peripheral_conv2d, grid=grid))}
    calls['auto, channels_last'] = case(c, small, partial(peripheral_conv2d, grid=grid), last=True)
    for backend in available_backends(device, dtype):
        convolve = partial(peripheral_conv2d, grid=grid, backend=backend)
        if backend != 'dense':
            calls[backend] = case(c, small, convolve)
        if backend in TRITON_BACKENDS:  # each of them copies its output in one of the layouts
            calls[f'{backend}, channels_last'] = case(c, small, convolve, last=True)
    if gemm := implicit_gemm(c, k, device, dtype):
        calls['implicit GEMM'] = case(c, [(k, k)], gemm)
    calls['F.conv2d'] = case(c, [(k, k)], depthwise)
    if torch.device(device).type == 'cuda':  # in the default layout, cuDNN has no depthwise convolutions with large kernels
        calls['F.conv2d, channels_last'] = case(c, [(k, k)], depthwise, last=True)
    calls['7x7, 8/3 C'] = case(wide, [(7, 7)], depthwise)
    calls['7x7, 8/3 C, channels_last'] = case(wide, [(7, 7)], depthwise, last=True)
    calls['stripes, 8/3 C'] = case(wide, [(k, min(k, STRIPE)), (min(k, STRIPE), k)], depthwise)
    calls['copy'] = case(c, [], lambda x: x * 1.0)
    square = torch.ones(MATRIX, MATRIX, device=device, dtype=dtype)
    calls['matrix product'] = lambda: square @ square
    return calls


def copies_beyond_cache(size: int, device: torch.device | str) -> int:
    """Return how many inputs of ``size`` bytes exceed the cache of a GPU; 1 on a CPU."""
    device = torch.device(device)
    return 1 if device.type != 'cuda' else 2 + 2 * torch.cuda.get_device_properties(device).L2_cache_size // size


def implicit_gemm(
    channels: int, kernel_size: int, device: torch.device | str, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return RepLKNet's CUTLASS convolution, or None if it is not installed or does not support the type."""
    if torch.device(device).type != 'cuda' or dtype == torch.bfloat16:
        return None
    try:
        from depthwise_conv2d_implicit_gemm import DepthWiseConv2dImplicitGEMM
    except ImportError:
        return None
    conv = DepthWiseConv2dImplicitGEMM(channels, kernel_size).to(device, dtype)
    return lambda x, weight: torch.func.functional_call(conv, dict(weight=weight), (x,))


def operator_work(shape: Shape, backward: bool) -> dict[str, int]:
    """Count the minimum work of an evaluation.

    Args:
        shape: (N, C, H = W, K).
        backward: Whether to include the backward pass.

    Returns:
        ``values``: the number of elements of the maps that are read and written. ``dense``: the multiply-adds of all K x K taps.
        ``structured``: the multiply-adds of k' x (k' + 1) taps on sums (docs/operator.md).
    """
    n, c, size, k = shape
    cells = crop(default_grid(k).cells, size)[0]
    positions, passes = n * c * size * size, 3 if backward else 1
    return dict(
        values=positions * (5 if backward else 2),
        dense=passes * positions * sum(cells) ** 2,
        structured=passes * positions * len(cells) * (len(cells) + 1),
    )


def default_grid(kernel_size: int) -> SharingGrid:
    """Return the grid of a kernel in PeLK: the fine center has 5 taps, and 7 in kernels of more than 51."""
    return SharingGrid.peripheral(kernel_size, min(kernel_size, 7 if kernel_size > 51 else 5))
