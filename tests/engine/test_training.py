"""What a config lacks for a run is named before data are read. tests/tools trains with each framework."""

import pytest
from mmengine.config import Config

from mmpelk.engine.training import train
from mmpelk.utils.errors import InputError

PARTS = dict(train_dataloader=dict(batch_size=2), train_cfg=dict(max_epochs=1), optim_wrapper=dict(type='OptimWrapper'))


def config(**parts):
    return Config(PARTS | parts, cfg_text='# x', filename='x.py')


@pytest.mark.parametrize('key', PARTS)
def test_missing_parts(key):
    with pytest.raises(InputError, match=f'^config x.py has no {key}$'):
        train(config(**{key: None}))


@pytest.mark.parametrize('parts', [{}, dict(auto_scale_lr=dict(enable=False))])
def test_scaling_the_learning_rate_needs_a_batch_size(parts):
    with pytest.raises(InputError, match='--auto-scale-lr needs auto_scale_lr.base_batch_size in x.py'):
        train(config(**parts), auto_scale_lr=True)
