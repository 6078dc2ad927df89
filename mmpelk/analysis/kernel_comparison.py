"""Compare the kernel forms of Table 1 and the grids of Table 5 on digits: the variants, their configs, and the table of results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .configs import config_path
from .paper import TABLE5


class Variant(NamedTuple):
    """A kernel form or a grid.

    Attributes:
        backbone: Settings of the backbone.
        top1: The paper's top-1 accuracy on ImageNet, or None.
    """

    backbone: dict
    top1: float | None


ALL_CHANNELS = dict(conv_ratio=1.0, pos_embed=None)
LAST_STAGE = (2, 2, 1, 1, 1)
VARIANTS = {
    'form: peripheral 51': Variant(dict(pos_embed=None), None),
    'form: dense 51': Variant(dict(kernel_form='dense', **ALL_CHANNELS), 81.6),
    'form: stripe 51': Variant(dict(kernel_form='stripe', **ALL_CHANNELS), 81.3),
    **{
        f'grid {number}: {list(half)}': Variant(dict(sharing_grids=[half, half, half, LAST_STAGE], pos_embed=None), top1)
        for number, (half, _, top1) in enumerate(TABLE5, 1)
    },
}


def config_text(name: str, seed: int, epochs: int) -> str:
    """Return the config that trains a variant of PeLK atto on digits, without sparsity.

    Args:
        name: A key of ``VARIANTS``.
        seed: Random seed.
        epochs: Number of epochs, at least 2.
    """
    settings = ', '.join(f'{key}={value!r}' for key, value in VARIANTS[name].backbone.items())
    return (
        f"_base_ = '{config_path('demo/pelk_atto_digits_cls')}'\n"
        f'model = dict(backbone=dict({settings}))\n'
        f'train_cfg = dict(max_epochs={epochs}, val_interval={epochs})\n'
        'param_scheduler = [\n'
        "    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),\n"
        f"    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=1, end={epochs}, convert_to_iter_based=True),\n"
        ']\n'
        "custom_hooks = [dict(type='EMAHook', momentum=0.02, priority='ABOVE_NORMAL')]\n"
        f'randomness = dict(seed={seed})\n'
    )


def results_as_markdown(results: Mapping[str, float], seeds: int, epochs: int) -> str:
    """Format results as a table of means, standard deviations over the seeds, and the paper's top-1 accuracies.

    Args:
        results: Top-1 accuracies in percent, by '<variant>/<seed>'. Missing runs are left out.
        seeds: Number of seeds.
        epochs: Number of epochs.
    """
    lines = [f'| variant | top-1 on digits, {epochs} epochs, {seeds} seeds | paper, ImageNet, 120 epochs |', '|---|---|---|']
    for name, variant in VARIANTS.items():
        values = [results[f'{name}/{seed}'] for seed in range(seeds) if f'{name}/{seed}' in results]
        if values:
            lines.append(f'| {name} | {mean_and_spread(values)} | {variant.top1 or "-"} |')
    return '\n'.join(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Format a mean, and the standard deviation if there is more than one value."""
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'
