"""Compare ways to continue training a ConvNeXt with 7x7 kernels on keyed rows, where the label of a pixel can be far away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from mmpelk.engine.runner import build_runner

from . import reach_comparison as reach
from .configs import set_run
from .kernel_comparison import mean_and_spread
from .measurement_series import measure_seeds
from .training_log import read_scalars

SIZE = 224
START, MORE = 80, 60  # iterations
# Continued training uses this fraction of the first training's learning rate.
FINE_TUNING = 0.25
KERNELS = (51, 49, 47, 13)


class Way(NamedTuple):
    """A way to train a model.

    Attributes:
        kernel_sizes: The sizes to which the 7x7 kernels grow, or None.
        from_start: Whether the weights are those of the first 80 iterations, with 7x7 kernels.
        iterations: Number of iterations.
        hooks: Additional hooks.
    """

    kernel_sizes: tuple[int, ...] | None
    from_start: bool
    iterations: int
    hooks: tuple[dict, ...] = ()


WAYS = {
    'start: 7x7': Way(None, False, START),
    '7x7': Way(None, True, MORE),
    'grown': Way(KERNELS, True, MORE),
    'grown, SharedStepsHook': Way(KERNELS, True, MORE, (dict(type='SharedStepsHook'),)),
    'grown kernels from scratch': Way(KERNELS, False, START + MORE),
}


def way_config(name: str, seed: int, root: Path) -> Config:
    """Return the config of a training run, and write its dataset unless it exists.

    Args:
        name: A key of ``WAYS``.
        seed: Random seed.
        root: Folder of the comparison, with a work dir for each run.
    """
    way = WAYS[name]
    cfg = reach.run_config(reach.Run(SIZE, 'ConvNeXt-like 7', seed), way.iterations, root)
    arch = cfg.model.backbone.arch
    backbone = ConfigDict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=arch.depths, channels=arch.channels),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        layer_scale_init_value=1.0,
        drop_path_rate=0.0,
    )
    if way.kernel_sizes:
        backbone = ConfigDict(type='GrownBackbone', backbone=backbone, kernel_sizes=way.kernel_sizes)
    cfg.model.backbone = backbone
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *way.hooks]
    folder = _work_dir(name, seed, root)
    set_run(cfg, folder, f'growing_{folder.name}', seed)
    if way.from_start:
        cfg.optim_wrapper.optimizer.lr *= FINE_TUNING
        cfg.load_from = str(_work_dir('start: 7x7', seed, root) / f'iter_{START}.pth')
    return cfg


def train(name: str, seed: int, root: Path) -> dict[str, float]:
    """Train in one way with one seed, and return the accuracies on the halves of the validation scenes in percent."""
    cfg = way_config(name, seed, root)
    build_runner(cfg).train()
    _, validation = read_scalars(Path(cfg.work_dir))
    metrics = validation[cfg.train_cfg.max_iters]
    return {half: round(metrics[f'glyphs/{half}'], 2) for half in ('left', 'right')}


def compare(seeds: int, root: Path) -> str:
    """Train in all ways that have no result yet, and return the table of results."""
    results = measure_seeds(list(WAYS), seeds, lambda name, seed: train(name, seed, root), root / 'results.json')
    return results_as_markdown(results, seeds)


def results_as_markdown(results: Mapping[str, Mapping[str, float]], seeds: int) -> str:
    """Format the results of :func:`train`, by '<way>/<seed>', as a table of means, standard deviations, and right halves by seed."""
    lines = ['| | iterations | left half | right half | right half, each seed |', '|---' * 5 + '|']
    for name, way in WAYS.items():
        found = [results[f'{name}/{seed}'] for seed in range(seeds) if f'{name}/{seed}' in results]
        if not found:
            continue
        columns = [mean_and_spread([result[half] for result in found]) for half in ('left', 'right')]
        each = ', '.join(f'{result["right"]:.1f}' for result in found)
        iterations = f'{START} + {way.iterations}' if way.from_start else str(way.iterations)
        lines.append(f'| {name} | {iterations} | {" | ".join(columns)} | {each} |')
    return '\n'.join(lines)


def _work_dir(name: str, seed: int, root: Path) -> Path:
    return root / f'{name.replace(": ", "_").replace(", ", "_").replace(" ", "_")}_{seed}'
