"""From a command line to a config, and to an mmengine Runner: what the tools share."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from torch import distributed as dist
from torch import nn

from mmpelk.checkpoints import check_fit, check_prefix, model_weights
from mmpelk.datasets.coco_check import check_coco
from mmpelk.errors import InputError, build_errors, first_line
from mmpelk.sparsity.hooks import SparsityHook


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's train and test tools share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results; default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of a parsed command line and apply the shared options to it.

    Raises:
        InputError: If the file is missing or is not a config, or an option does not apply to it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    _adapt_to_machine(cfg)
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    if hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'
    return cfg


def read_config(path: str, options: dict | None = None) -> Config:
    """Read a config file and merge ``options`` into it.

    Raises:
        InputError: If the file is missing or is not a config, or an option does not apply to it.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} does not exist')
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, OSError, KeyError, TypeError, AttributeError, ImportError, ValueError) as error:
        raise InputError(f'config {path} cannot be read: {first_line(error)}') from error
    if 'model' not in cfg:
        raise InputError(f'config {path} has no model')
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f'--cfg-options do not fit {path}: {first_line(error)}') from error
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)  # as mmengine's Runner does
    return cfg


def _adapt_to_machine(cfg: Config) -> None:
    """On a machine without a GPU, train in float32 and communicate over gloo."""
    if get_device() not in ('cpu', 'mps'):
        return
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        print_log('no GPU here: the config asks for AMP, training runs in float32', 'current', logging.WARNING)
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(key, None)
    if cfg.launcher == 'pytorch' and not dist.is_initialized():
        # mmengine would select a CUDA device for each process and pass its number to DDP.
        dist.init_process_group('gloo')
        cfg.model_wrapper_cfg = ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )


def enable_amp(cfg: Config) -> None:
    """Switch mixed precision on (``--amp``).

    Raises:
        InputError: If there is no GPU, or the config has an optimizer wrapper that AMP cannot replace.
    """
    if get_device() in ('cpu', 'mps'):
        raise InputError('--amp needs a GPU and there is none here; leave it out to train in float32')
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'--amp replaces OptimWrapper, but the config has optim_wrapper.type={wrapper!r}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


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


class NamingPipeline(Compose):
    """A data pipeline whose loading errors name the file.

    Args:
        pipeline: The pipeline to run.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        paths = [data[key] for key in ('img_path', 'seg_map_path') if data.get(key)]
        try:
            return super().__call__(data)
        except (OSError, AssertionError, SyntaxError, cv2.error) as error:  # Pillow reports a broken PNG as a SyntaxError
            unreadable = [path for path in paths if not _is_readable(path)]
            raise InputError(f'cannot read {" or ".join(unreadable or paths)}: {first_line(error)}') from error


def _is_readable(path: str) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


class NamingRunner(Runner):
    """mmengine's Runner over data sets whose errors name the file."""

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs):
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        datasets = [loader.dataset]
        for dataset in datasets:
            datasets += getattr(dataset, 'datasets', [])
            datasets += [dataset.dataset] if hasattr(dataset, 'dataset') else []
            if isinstance(getattr(dataset, 'pipeline', None), Compose):
                dataset.pipeline = NamingPipeline(dataset.pipeline)
        return loader


def build_runner(cfg: Config) -> Runner:
    """Build the runner, and with it the model.

    Raises:
        InputError: If something in the config cannot be built.
    """
    with build_errors():
        return RUNNERS.build(cfg) if 'runner_type' in cfg else NamingRunner.from_cfg(cfg)


def accumulate_gradients(runner: Runner) -> None:
    """Reach the config's ``total_batch_size``, where it has one, by accumulating gradients over several iterations.

    EMA hooks then average once for each step of the optimizer.

    Raises:
        InputError: If processes times batch size do not divide it.
    """
    total = runner.cfg.get('total_batch_size')
    if total is None:
        return
    batch = runner.cfg.train_dataloader.batch_size
    steps, rest = divmod(total, runner.world_size * batch)
    if rest or steps < 1:
        raise InputError(
            f'total_batch_size={total} is no multiple of {runner.world_size} processes x batch size {batch}; '
            'set train_dataloader.batch_size to one that divides it'
        )
    runner.optim_wrapper['accumulative_counts'] = steps
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.ema_cfg['interval'] = steps
    runner.logger.info(
        f'batch {total} = {runner.world_size} processes x {batch} images x {steps} iterations of accumulated gradients'
    )


def check_checkpoint(path: str | Path, model: nn.Module, at_least: float = 1.0, prefix: str = '', resize: bool = True) -> dict:
    """Check that a file the runner is about to load is safe, whole, and of this model.

    Args:
        path: The checkpoint; a file or a URL.
        model: The model as built.
        at_least: Share of the model's tensors that must be matched.
        prefix: Of the weights in the file that are the model's.
        resize: Whether kernels may be of other grids.

    Returns:
        The checkpoint.

    Raises:
        InputError: If it is not.
    """
    checkpoint = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    check_prefix(checkpoint, prefix, path)
    check_fit(model_weights(checkpoint, prefix), unwrap(model), path, at_least, resize)
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
            check_checkpoint(init['checkpoint'], module, at_least=0.5, prefix=prefix)


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
