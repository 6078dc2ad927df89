"""Checks of data, annotations, and checkpoints before a run. Invalid input ends here, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmpelk.checkpoints import check_fit, check_prefix, model_weights
from mmpelk.datasets.check_coco import check_coco
from mmpelk.sparsity.hooks import SparsityHook
from mmpelk.utils.errors import InputError


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the folders and files that the datasets name exist.

    Args:
        cfg: The config.
        splits: Of 'train', 'val', 'test'.

    Raises:
        InputError: If one is missing, or a folder of images is empty.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for key, dataset in _datasets(loader.dataset, f'{split}_dataloader.dataset') if loader else ():
            if '://' in (dataset.get('data_root') or ''):
                continue  # a remote store, which mmengine's file backends reach
            root = Path(dataset.get('data_root') or '')
            hint = f'put the data there or set {key}.data_root'
            prefixes = dataset.get('data_prefix') or dataset.get('split') or {}
            for name, value in ({'img_path': prefixes} if isinstance(prefixes, str) else prefixes).items():
                folder = root / value
                if not folder.is_dir():
                    raise InputError(f'data folder {folder} does not exist ({key}.data_prefix.{name}); {hint}')
                if not any(folder.iterdir()):
                    raise InputError(f'data folder {folder} is empty ({key}.data_prefix.{name}); {hint}')
            if dataset.get('ann_file') and not (root / dataset.ann_file).exists():
                raise InputError(f'annotation file {root / dataset.ann_file} does not exist ({key}.ann_file); {hint}')
            if dataset.get('type') == 'CocoDataset':
                classes = dataset.get('metainfo', {}).get('classes') or DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
                _check_class_count(cfg.model, len(classes), 'model')
                check_coco(root / dataset.ann_file, root / dataset.data_prefix.img, classes)


def _check_class_count(model: ConfigDict, count: int, key: str) -> None:
    """Check that every head inside a detector's config has as many classes as the data."""
    for name, value in model.items():
        if name == 'num_classes' and value != count:
            raise InputError(f'{key}.num_classes is {value}, but the data set has {count} classes')
        for index, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, dict):
                _check_class_count(part, count, f'{key}.{name}.{index}' if isinstance(value, list) else f'{key}.{name}')


def _datasets(dataset: ConfigDict, key: str) -> Iterator[tuple[str, ConfigDict]]:
    """A dataset's config with its place in the config, or those inside if it is a wrapper."""
    if 'dataset' in dataset:
        yield from _datasets(dataset.dataset, f'{key}.dataset')
    elif 'datasets' in dataset:
        for index, inner in enumerate(dataset.datasets):
            yield from _datasets(inner, f'{key}.datasets.{index}')
    else:
        yield key, dataset


def check_checkpoint(path: str | Path, model: nn.Module, strict: bool = True, prefix: str = '', resize: bool = True) -> dict:
    """Check that a file the runner is about to load is safe, whole, and of this model.

    Args:
        path: The checkpoint; a file or a URL.
        model: The model as built.
        strict: See :func:`mmpelk.checkpoints.check_fit`.
        prefix: Of the weights in the file that are the model's.
        resize: Whether kernels may be of other grids.

    Returns:
        The checkpoint.

    Raises:
        InputError: If it is not.
    """
    checkpoint = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    check_prefix(checkpoint, prefix, path)
    check_fit(model_weights(checkpoint, prefix), unwrap(model), path, strict, resize)
    return checkpoint


def check_pretrained(model: nn.Module) -> None:
    """Check the files that parts of the model start from (``init_cfg=dict(type='Pretrained', ...)``).

    Raises:
        InputError: If one fits less than half of its part, or is broken or unsafe.
    """
    for module in unwrap(model).modules():
        inits = getattr(module, 'init_cfg', None) or []
        for init in [inits] if isinstance(inits, dict) else inits:
            if init.get('type') != 'Pretrained':
                continue
            prefix = init.get('prefix') or ''
            if prefix and not prefix.endswith('.'):
                prefix += '.'
            check_checkpoint(init['checkpoint'], module, strict=False, prefix=prefix)


def check_masks(checkpoint: dict, path: str | Path, runner: Runner) -> None:
    """Check that a checkpoint to resume, read from ``path``, has the masks that the runner's sparsity hooks need.

    Raises:
        InputError: If it has none, or they are of another model.
    """
    for hook in runner.hooks:
        if isinstance(hook, SparsityHook):
            hook.check(checkpoint, unwrap(runner.model), path)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside distributed and test-time augmentation wrappers."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
