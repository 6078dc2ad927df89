"""Types and values of a config's settings."""

import pytest
from conftest import CONFIGS
from mmengine.config import Config

from mmpelk.engine.check_config import check_settings
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError

DEMO = CONFIGS / 'demo/upernet_pelk_atto_digits.py'


def test_all_configs_pass():
    for path in sorted(CONFIGS.rglob('*.py')):
        check_settings(Config.fromfile(path), path)


@pytest.mark.parametrize(
    'key, value, expected',
    [
        ('model', 'PeLK', 'a dict'),
        ('model.backbone', None, 'a dict'),
        ('model.backbone.init_cfg', 'x.pth', 'a dict, a list of dicts, or None'),
        ('train_dataloader', 3, 'a dict or None'),
        ('train_dataloader.dataset', None, 'a dict'),
        ('train_dataloader.dataset.data_root', 3, 'a path'),
        ('train_dataloader.dataset.pipeline', 'x', 'a list of dicts'),
        ('train_dataloader.sampler', None, 'a dict'),
        ('train_dataloader.batch_size', 0, 'an integer of at least 1'),
        ('val_dataloader.batch_size', 1.5, 'an integer of at least 1'),
        ('train_dataloader.num_workers', -1, 'an integer of at least 0'),
        ('train_cfg.max_iters', -1, 'an integer of at least 1'),
        ('optim_wrapper.optimizer.lr', float('nan'), 'a number of at least 0'),
        ('optim_wrapper.optimizer.lr', 'two', 'a number of at least 0'),
        ('optim_wrapper.optimizer.weight_decay', True, 'a number of at least 0'),
        ('randomness.seed', 2**32, r'None or an integer from 0 to 2\*\*32 - 1'),
        ('default_hooks.checkpoint.interval', 0, '-1 or an integer of at least 1'),
        ('custom_hooks', 3, 'a list of dicts or None'),
        ('work_dir', 3, 'text or None'),
    ],
)
def test_wrong_settings_are_named(key, value, expected):
    with pytest.raises(InputError, match=rf'^config .*{DEMO.name}: {key} is .*; expected {expected}$'):
        read_config(str(DEMO), {key: value})


def test_settings_inside_of_dataset_wrappers():
    inner = dict(type='A', data_root='data', metainfo=dict(classes=('a',)))
    wrapped = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner), inner])
    check_settings(Config(dict(train_dataloader=dict(dataset=wrapped))), 'a.py')
    inner['metainfo'] = dict(classes=3)
    with pytest.raises(
        InputError, match=r'train_dataloader.dataset.datasets.0.dataset.metainfo.classes is 3; expected a list of names'
    ):
        check_settings(Config(dict(train_dataloader=dict(dataset=wrapped))), 'a.py')
