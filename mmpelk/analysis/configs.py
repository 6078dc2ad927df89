"""The config files that come with this package, by name."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.config import Config

from mmpelk.engine.config import read_config

# A wheel contains the first folder, the repository the second.
FOLDERS = (Path(__file__).parents[1] / '.mim/configs', Path(__file__).parents[2] / 'configs')


def packaged_config(name: str, backbone: dict | None = None) -> Config:
    """Read a config.

    Args:
        name: Path below ``configs/``, without the suffix.
        backbone: Settings to merge into ``model.backbone``.

    Raises:
        InputError: If the file does not exist.
    """
    options = dict(model=dict(backbone=copy.deepcopy(backbone))) if backbone else None  # mmengine removes the _delete_ keys
    folder = next(filter(Path.is_dir, FOLDERS), FOLDERS[-1])
    return read_config(str(folder / f'{name}.py'), options)


def set_run(cfg: Config, folder: Path, name: str, seed: int) -> None:
    """Set the work dir, the name, and the seed of one training run of a comparison, which logs errors only."""
    cfg.default_hooks.checkpoint.type = 'AtomicCheckpointHook'
    cfg.randomness.seed = seed
    cfg.visualizer.name = name  # mmengine keeps one log, and one visualizer, per name
    cfg.update(work_dir=str(folder), experiment_name=name, launcher='none', log_level='ERROR')
