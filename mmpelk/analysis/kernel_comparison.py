"""Compare the kernel forms of Table 1 and the grids of Table 5 on digits: the variants, their training, and the table of results."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmpelk.engine.training import train
from mmpelk.utils.errors import InputError

from .configs import packaged_config, set_run
from .measurement_series import measure_seeds
from .paper import TABLE5
from .training_log import read_scalars


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


def run_config(name: str, seed: int, epochs: int, root: Path) -> Config:
    """Return the config that trains a variant of PeLK atto on digits, without sparsity.

    Args:
        name: A key of ``VARIANTS``.
        seed: Random seed.
        epochs: Number of epochs, at least 2.
        root: Folder of the comparison, with a work dir for each run.
    """
    cfg = packaged_config('demo/pelk_atto_digits_cls', VARIANTS[name].backbone)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].end = epochs
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.02, priority='ABOVE_NORMAL')]
    folder = root / f'{epochs}e' / re.sub(r'\W+', '_', f'{name}_{seed}')
    set_run(cfg, folder, folder.name, seed)
    return cfg


def train_variant(name: str, seed: int, epochs: int, root: Path) -> float:
    """Train a variant, or resume its training, and return its last top-1 accuracy in percent."""
    cfg = run_config(name, seed, epochs, root)
    train(cfg, resume='auto')
    _, validation = read_scalars(Path(cfg.work_dir))
    return round(validation[max(validation)]['accuracy/top1'], 2)


def compare(seeds: int, epochs: int, root: Path) -> str:
    """Train all variants that have no result yet, and return the table of results.

    Args:
        seeds: Number of seeds.
        epochs: Number of epochs, at least 2.
        root: Folder of the comparison.

    Raises:
        InputError: If the digits in ``data/digits`` do not exist.
    """
    if not Path('data/digits').is_dir():
        raise InputError('data/digits does not exist; make it with python tools/make_digits.py')
    results = measure_seeds(
        list(VARIANTS), seeds, lambda name, seed: train_variant(name, seed, epochs, root), root / f'results_{epochs}e.json'
    )
    return results_as_markdown(results, seeds, epochs)


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
