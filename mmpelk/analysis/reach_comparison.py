"""Compare kernels on keyed rows, where the label of a pixel can be far away: the variants, their training, and the tables."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmpelk.datasets import make_keyed_rows
from mmpelk.engine.runner import build_runner

from .configs import packaged_config, set_run
from .kernel_comparison import ALL_CHANNELS, LAST_STAGE, mean_and_spread
from .measurement_series import measure_missing
from .model_benchmarks import peak_memory
from .paper import TABLE5
from .training_log import read_scalars

CONFIG = 'demo/pelk_51_keyed_rows'
PARTS = 8
# Settings of the backbone by name. The last word of a name is the kernel size of the first stage.
VARIANTS = {
    'ConvNeXt-like 7': dict(kernel_form='dense', kernel_sizes=(7, 7, 7, 7), conv_ratio=1.0, small_kernel=None),
    'stripe 51': dict(kernel_form='stripe', **ALL_CHANNELS),
    'dense 51': dict(kernel_form='dense', **ALL_CHANNELS),
    'peripheral 13': dict(kernel_sizes=(13, 13, 13, 13)),
    'peripheral 31': dict(kernel_sizes=(31, 29, 27, 13)),
    'peripheral 51': {},
    'peripheral 101': dict(kernel_sizes=(101, 69, 67, 13), center_size=7),
}
# Variations of 'peripheral 51'.
ABLATIONS = {
    'with h': dict(pos_embed='shared'),
    **{f'center {size}': dict(center_size=size) for size in (1, 3, 7)},
    'no small branch': dict(small_kernel=None),
    'all channels': dict(conv_ratio=1.0),
    **{f'grid {number}': dict(sharing_grids=[half, half, half, LAST_STAGE]) for number, (half, _, _) in enumerate(TABLE5, 1)},
}


class Run(NamedTuple):
    """One training run.

    Attributes:
        size: Height and width of the images.
        variant: A key of ``VARIANTS`` or ``ABLATIONS``.
        seed: Random seed.
    """

    size: int
    variant: str
    seed: int

    def __str__(self) -> str:
        return f'{self.size}/{self.variant}/{self.seed}'


def rows_of(size: int) -> int:
    """Return the number of rows of the scenes, in proportion to their height."""
    return size // 21


def runs(sizes: Iterable[int], variants: Sequence[str], seeds: int) -> list[Run]:
    """List the runs. All variants with one seed come before any with the next, so that an interrupted comparison is still fair."""
    return [Run(size, variant, seed) for size in sizes for seed in range(seeds) for variant in variants]


def run_config(run: Run, iterations: int, root: Path) -> Config:
    """Return the config of a run, and write its dataset unless it exists.

    Args:
        run: The run.
        iterations: Number of iterations, at least 10.
        root: Folder of the comparison: datasets in ``data/``, and a work dir for each run.
    """
    cfg = packaged_config(CONFIG, (VARIANTS | ABLATIONS)[run.variant])
    data = make_keyed_rows(root / 'data' / str(run.size), size=run.size, rows=rows_of(run.size))
    cfg.model.data_preprocessor.size = (run.size, run.size)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(data)
    warm_up = min(20, max(2, iterations // 10))  # a LinearLR of one iteration never reaches the full rate
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = warm_up
    cfg.param_scheduler[1].end = iterations
    cfg.default_hooks.checkpoint.update(interval=iterations, save_optimizer=False, save_param_scheduler=False)
    cfg.default_hooks.logger.interval = min(50, iterations)
    folder = work_dir(run, iterations, root)
    set_run(cfg, folder, '_'.join(folder.parts[-4:]), run.seed)
    return cfg


def work_dir(run: Run, iterations: int, root: Path) -> Path:
    """Return the work dir of a run."""
    return root / f'{iterations}i' / re.sub(r'[^\w/-]+', '_', str(run))


def checkpoint(run: Run, iterations: int, root: Path) -> Path:
    """Return the checkpoint at the end of a run."""
    return work_dir(run, iterations, root) / f'iter_{iterations}.pth'


def train(run: Run, iterations: int, root: Path) -> dict:
    """Train a run and return its accuracies on the validation scenes in percent, and the CPU time of the whole run in seconds.

    The accuracies are 'left', 'right', and 'all', and the list 'parts' from left to right, in which a part without glyphs is None. See
    :class:`mmpelk.datasets.keyed_rows_metric.AccuracyOverDistance`.
    """
    cfg = run_config(run, iterations, root)
    start = time.process_time()
    build_runner(cfg).train()
    seconds = time.process_time() - start
    _, validation = read_scalars(Path(cfg.work_dir))
    metrics = validation[cfg.train_cfg.max_iters]
    result = {key: round(metrics[f'glyphs/{key}'], 2) for key in ('left', 'right', 'all')}
    parts = [metrics[f'glyphs/part_{part + 1}'] for part in range(PARTS)]
    parts = [None if math.isnan(accuracy) else round(accuracy, 2) for accuracy in parts]
    return result | dict(parts=parts, cpu_seconds=round(seconds, 1))


def compare(
    sizes: Sequence[int], variants: Sequence[str], ablations: bool, seeds: int, iterations: int, root: Path
) -> tuple[dict[str, dict], str]:
    """Train all runs that have no result yet, and measure the memory of one run of each variant.

    Args:
        sizes, variants, seeds: The runs, as in :func:`runs`.
        ablations: Whether to train the ablations too, on images of the first size.
        iterations: Number of iterations, at least 10.
        root: Folder of the comparison.

    Returns:
        The results of :func:`train` by run, and their tables.
    """
    tables = [(sizes, variants)] + ([(sizes[:1], list(ABLATIONS))] if ablations else [])
    planned = {str(run): run for table in tables for run in runs(*table, seeds)}

    def memory(name: str) -> float:
        run = planned[f'{name}/0']
        cfg = run_config(run, iterations, root)
        return round(peak_memory(cfg, cfg.train_dataloader.batch_size, run.size, 'cpu'))

    results = measure_missing(
        list(planned), lambda name: train(planned[name], iterations, root), root / f'results_{iterations}i.json'
    )
    names = list(dict.fromkeys(f'{run.size}/{run.variant}' for run in planned.values()))
    needed = measure_missing(names, memory, root / 'memory.json')
    return results, '\n'.join(results_as_markdown(results, needed, *table, seeds) for table in tables)


def results_as_markdown(
    results: Mapping[str, dict], memory: Mapping[str, float], sizes: Iterable[int], variants: Sequence[str], seeds: int
) -> str:
    """Format the results as a table for each size: means and standard deviations over the seeds. Missing runs are left out.

    Args:
        results: Results of :func:`train` by run.
        memory: Peak memory of training in MiB by '<size>/<variant>'. Missing ones are shown as a dash.
        sizes, variants, seeds: The runs, as in :func:`runs`.
    """
    lines = []
    for size in sizes:
        lines += [f'{size} px, {rows_of(size)} rows:', '']
        lines += ['| kernels | seeds | left half | right half | CPU time of a run (s) | memory (MiB) |', '|---' * 6 + '|']
        for variant in variants:
            existing = found(results, size, variant, seeds)
            if existing:
                columns = [mean_and_spread([result[key] for result in existing]) for key in ('left', 'right', 'cpu_seconds')]
                needed = memory.get(f'{size}/{variant}', '-')
                lines.append(f'| {variant} | {len(existing)} | {" | ".join(columns)} | {needed} |')
        lines.append('')
    return '\n'.join(lines)


def found(results: Mapping[str, dict], size: int, variant: str, seeds: int) -> list[dict]:
    """Return the results of a variant that exist."""
    return [results[key] for seed in range(seeds) if (key := str(Run(size, variant, seed))) in results]
