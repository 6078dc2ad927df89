"""Read configs and adapt them to the command line and to the machine."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log

from mmpelk.utils.errors import TRACEBACK, InputError, first_line
from mmpelk.utils.torch_compat import has_bfloat16_units

from .check_config import check_settings


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names, and apply the options that all tools share.

    Checkpoints are saved atomically, and AMP, SyncBN, and distributed training are adapted to a machine without a GPU. No process group
    is started.

    Args:
        args: The parsed options of :func:`mmpelk.engine.command_line.add_runner_arguments`.

    Raises:
        InputError: If the file is missing or is not a config, or an option does not apply to it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    _adapt_to_machine(cfg)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'
    return cfg


def read_config(path: str, options: dict | None = None) -> Config:
    """Read a config file and merge ``options`` into it.

    Args:
        path: The config file.
        options: Values by dotted keys, such as ``{'model.backbone.type': 'PeLK'}``.

    Raises:
        InputError: If the file is missing or is not a config, an option does not apply to it, or a setting has a wrong type or value.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} does not exist')
    try:
        cfg = Config.fromfile(path)
    except (Exception, SystemExit) as error:  # a config is Python code, which can raise anything
        raise InputError(f'config {path} cannot be read: {first_line(error)} ({TRACEBACK}=1 shows where)') from error
    if 'model' not in cfg:
        raise InputError(f'config {path} has no model')
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f'--cfg-options do not fit {path}: {first_line(error)}') from error
    check_settings(cfg, path)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)  # as mmengine's Runner does
    return cfg


def _adapt_to_machine(cfg: Config) -> None:
    """If the machine has no GPU, train in float32, without SyncBN, and without CUDA devices."""
    if has_gpu():
        return
    if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        print_log('There is no GPU. The config asks for AMP, but training runs in float32.', 'current', logging.WARNING)
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(key, None)
    if cfg.launcher == 'pytorch':
        # mmengine would pass the number of a CUDA device to DDP.
        cfg.model_wrapper_cfg = ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        # torch's SyncBatchNorm runs on GPUs only. The runner reverts the layers that the model has.
        cfg.sync_bn = None
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='AverageStatisticsHook')]


def has_gpu() -> bool:
    """Return whether models run on an accelerator that supports AMP and DDP devices."""
    return get_device() not in ('cpu', 'mps')


def enable_amp(cfg: Config) -> None:
    """Enable automatic mixed precision (``--amp``): bfloat16 if the GPU supports it, otherwise float16 with a dynamic loss scale.

    bfloat16 is preferred because a layer scale of 1e-6 leads to gradients that underflow in float16. A config that already uses AMP is
    left unchanged.

    Raises:
        InputError: If there is no GPU, or the config has an optimizer wrapper that AMP cannot replace.
    """
    if not has_gpu():
        raise InputError('--amp needs a GPU, and this machine has none; leave it out to train in float32')
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'--amp replaces OptimWrapper, but the config has optim_wrapper.type={wrapper!r}')
    if wrapper == 'AmpOptimWrapper':
        return
    has_bfloat16 = torch.cuda.is_available() and has_bfloat16_units()
    # bfloat16 has the exponent range of float32, so the loss needs no scale.
    amp = dict(dtype='bfloat16', loss_scale=dict(enabled=False)) if has_bfloat16 else dict(dtype='float16', loss_scale='dynamic')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', **amp)
