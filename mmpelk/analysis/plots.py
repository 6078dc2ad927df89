"""Draw the figures of the tools: complexity, sharing grids, training curves, and the benchmark of kernel sizes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmpelk.ops import SharingGrid
from mmpelk.utils.files import write_atomically

# The validation metrics that are drawn if a log has them.
METRICS = ('mIoU', 'mAcc', 'aAcc', 'coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1', 'accuracy/top5')


def draw_breakdown(parts: Mapping[str, int], path: Path) -> None:
    """Draw Fig. 5, the multiply-adds of the parts of a backbone, as bars.

    Args:
        parts: Multiply-adds by part, as in :class:`mmpelk.analysis.complexity.Complexity`.
        path: PNG to write.
    """
    shown = {part: parts[part] / 1e9 for part in ('stem and downsampling', 'large kernels', 'h', 'MLP')}
    figure = Figure(figsize=(7, 2.6), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(list(shown), list(shown.values()), color=['#8aa', '#d66', '#e90', '#68a'])
    axes.bar_label(bars, [f'{value:.3g} G, {value / sum(shown.values()):.2%}' for value in shown.values()], padding=4)
    axes.set(
        xlabel='10$^9$ multiply-adds', title='PeLK-T in UperNet at 2048x512: the backbone', xlim=(0, 1.3 * max(shown.values()))
    )
    axes.invert_yaxis()
    save_figure(figure, path, dpi=120)


def draw_parameters(curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draw Fig. 6, the parameters of ConvNeXt-T over the size of its kernels.

    Args:
        curves: Millions of parameters by kernel size, for each form of kernel.
        path: PNG to write.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker='o', markersize=3, label=name)
    axes.set(xlabel='kernel size', ylabel='parameters (M)', title='ConvNeXt-T with all kernels replaced', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=120)


def draw_grids(grids: Sequence[SharingGrid], path: str | Path) -> None:
    """Draw sharing grids side by side. Each rectangle is one weight.

    Args:
        grids: The grids.
        path: PNG to write.
    """
    figure = Figure(figsize=(4.2 * len(grids), 4.6), layout='constrained')
    all_axes = figure.subplots(1, len(grids), squeeze=False)[0]
    for axes, grid in zip(all_axes, grids, strict=True):
        edges = np.array(grid.edges) - grid.kernel_size / 2
        areas = np.log2(grid.areas().numpy())
        axes.pcolormesh(edges, edges, areas, cmap='YlGnBu_r', edgecolors='white', linewidth=0.6, vmin=0, vmax=8)
        k, size = grid.kernel_size, grid.weight_size
        cells = 'one weight for each tap' if size == k else f'{list(grid.half)}'  # the half grid of a dense kernel is too long
        title = f'{k}x{k} kernel, {size}x{size} weights\n{cells}'
        axes.set(title=title, aspect='equal', xlim=(-51, 51), ylim=(-51, 51))
        axes.axis('off')
    save_figure(figure, path, dpi=110, bbox_inches='tight')


def draw_training(training: Mapping[int, dict], validation: Mapping[int, dict], path: Path) -> None:
    """Draw losses and validation metrics over the iterations.

    Args:
        training, validation: Records by iteration, from :func:`mmpelk.analysis.training_log.read_scalars`.
        path: PNG to write.
    """
    figure = Figure(figsize=(11, 4), layout='constrained')
    loss_axes, metric_axes = figure.subplots(1, 2)
    for name in sorted({key for record in training.values() for key in record if 'loss' in key}):
        loss_axes.plot(*_points(training, name), label=name, linewidth=2 if name == 'loss' else 1)
    loss_axes.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='training')
    loss_axes.legend()
    for name in METRICS:
        steps, values = _points(validation, name)
        if values:
            metric_axes.plot(steps, values, marker='o', label=f'{name}: {values[-1]:.4g} at the end')
    metric_axes.set(xlabel='iteration', title='validation')
    if metric_axes.lines:
        metric_axes.legend()
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=120)


def save_figure(figure: Figure, path: str | Path, **options: Any) -> None:
    """Write a figure as a PNG, which appears only once it is complete."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', **options)
    write_atomically(buffer.getvalue(), path)


def _points(records: Mapping[int, dict], name: str) -> tuple[list[int], list[float]]:
    """Return the iterations whose records have a scalar, in order, and its values."""
    steps = [step for step in sorted(records) if name in records[step]]
    return steps, [records[step][name] for step in steps]


def draw_sweep(results: Sequence[dict], path: Path, device: str) -> None:
    """Draw the time of the operator over the kernel size.

    Args:
        results: Results of :func:`mmpelk.analysis.operator_benchmark.benchmark_operator` for one input shape.
        path: PNG to write.
        device: Name of the device for the title.
    """
    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axes = figure.subplots()
    sizes = [result['shape'][3] for result in results]
    for name, timing in results[0].items():
        if isinstance(timing, dict) and not name.endswith('channels_last'):
            axes.plot(sizes, [result[name]['median'] for result in results], marker='o', markersize=3, label=name)
    shape = tuple(results[0]['shape'][:3])
    title = f'Depthwise convolution, (N, C, H = W) = {shape}\n{device}'
    axes.set(xlabel='kernel size', ylabel='ms', yscale='log', title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path, dpi=120)
