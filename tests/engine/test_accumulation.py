"""Gradients are accumulated to the total batch size, and the schedule stays the same in optimizer steps."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook

from mmpelk.engine.accumulation import accumulate_gradients
from mmpelk.utils.errors import InputError


def fake_runner(total, batch, processes, hooks=(), loop=None, schedulers=None):
    cfg = Config(dict(train_dataloader=dict(batch_size=batch)))
    if total is not None:
        cfg.total_batch_size = total
    return SimpleNamespace(
        cfg=cfg,
        world_size=processes,
        optim_wrapper=dict(type='OptimWrapper'),
        hooks=list(hooks),
        logger=logging.getLogger(),
        _train_loop=loop or dict(by_epoch=True, max_epochs=3, val_interval=1),
        param_schedulers=schedulers,
    )


@pytest.mark.parametrize('total, batch, processes, steps', [(8, 2, 2, 2), (8, 4, 2, 1), (4096, 64, 8, 8), (6, 3, 1, 2)])
def test_accumulated_iterations_make_the_total_batch_size(total, batch, processes, steps):
    ema = EMAHook(momentum=0.1)
    runner = fake_runner(total, batch, processes, [ema])
    accumulate_gradients(runner)
    assert runner.optim_wrapper['accumulative_counts'] == steps and ema.ema_cfg['interval'] == steps


def test_accumulation_keeps_the_schedule_in_optimizer_steps():
    """On 4 GPUs instead of 8, training for 160k iterations takes 320k, and the schedule and the intervals grow accordingly."""
    hooks = [CheckpointHook(interval=16000, by_epoch=False), CheckpointHook(interval=2)]
    loop = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
    schedulers = [
        dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
        dict(type='MultiStepLR', by_epoch=False, milestones=[10, 20]),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33]),
    ]
    accumulate_gradients(fake_runner(16, 2, 4, hooks, loop, schedulers))
    assert loop == dict(type='IterBasedTrainLoop', max_iters=320000, val_interval=32000)
    assert (schedulers[0]['begin'], schedulers[0]['end'], schedulers[0]['start_factor']) == (0, 3000, 1e-6)
    assert schedulers[1]['milestones'] == [20, 40] and schedulers[2]['milestones'] == [27, 33] and schedulers[2]['end'] == 36
    assert [hook.interval for hook in hooks] == [32000, 2]
    loop = dict(by_epoch=True, max_epochs=36, val_interval=1)
    one = dict(type='LinearLR', by_epoch=False, end=1000)
    accumulate_gradients(fake_runner(16, 2, 4, (), loop, one))
    assert loop == dict(by_epoch=True, max_epochs=36, val_interval=1) and one['end'] == 2000


def test_no_total_batch_size_accumulates_nothing():
    ema = EMAHook(momentum=0.1)
    runner = fake_runner(None, 2, 1, [ema])
    accumulate_gradients(runner)
    assert runner.optim_wrapper == dict(type='OptimWrapper') and ema.ema_cfg.get('interval') in (None, 1)


@pytest.mark.parametrize('total, batch, processes', [(6, 4, 1), (8, 3, 2), (2, 4, 1), (0, 4, 1)])
def test_impossible_total_batch_sizes(total, batch, processes):
    message = f'total_batch_size={total} is not a multiple of {processes} processes x batch size {batch}; '
    with pytest.raises(InputError, match=message):
        accumulate_gradients(fake_runner(total, batch, processes))
