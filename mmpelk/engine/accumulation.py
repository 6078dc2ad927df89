"""Accumulate gradients to reach the batch size of a recipe on any number of processes."""

from __future__ import annotations

from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import Runner

from mmpelk.utils.errors import InputError


def accumulate_gradients(runner: Runner) -> None:
    """Accumulate gradients over several iterations to reach the config's ``total_batch_size``, if it has one.

    EMA hooks then average once per optimizer step. Settings that the config counts in iterations (the length of iteration-based
    training, the learning rate schedule, and the intervals of validation and checkpoints) are multiplied, so that they stay the same in
    optimizer steps and in images.

    Raises:
        InputError: If the total batch size is not a multiple of the number of processes times the batch size.
    """
    total = runner.cfg.get('total_batch_size')
    if total is None:
        return
    batch = runner.cfg.train_dataloader.batch_size
    steps, rest = divmod(total, runner.world_size * batch)
    if rest or steps < 1:
        raise InputError(
            f'total_batch_size={total} is not a multiple of {runner.world_size} processes x batch size {batch}; '
            'change total_batch_size or train_dataloader.batch_size'
        )
    runner.optim_wrapper['accumulative_counts'] = steps
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.ema_cfg['interval'] = steps
        if isinstance(hook, CheckpointHook) and not hook.by_epoch:
            hook.interval *= steps
    if 'max_iters' in runner._train_loop:
        _multiply(runner._train_loop, ('max_iters', 'val_begin', 'val_interval'), steps)
    schedulers = runner.param_schedulers or []
    for scheduler in [schedulers] if isinstance(schedulers, dict) else schedulers:
        if not scheduler.get('by_epoch', True):
            _multiply(scheduler, ('begin', 'end', 'milestones', 'step_size', 'T_max'), steps)
    runner.logger.info(
        f'batch {total} = {runner.world_size} processes x {batch} images x {steps} iterations of accumulated gradients'
    )


def _multiply(options: dict, names: tuple[str, ...], factor: int) -> None:
    """Multiply the named options, which are numbers or lists of numbers, if they are set."""
    for name in names:
        value = options.get(name)
        if value is not None:
            options[name] = [item * factor for item in value] if isinstance(value, list) else value * factor
