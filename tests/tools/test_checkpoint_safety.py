"""No tool runs code from a checkpoint, and a kill during a save leaves the previous checkpoint intact."""

import os
from importlib.util import find_spec

import pytest
import torch
from conftest import CONFIGS, save_untrained, train_until_killed
from mmengine.runner import find_latest_checkpoint

from mmpelk.checkpoints import read_checkpoint
from mmpelk.datasets import make_digits

CONFIG = f"""
_base_ = '{CONFIGS}/demo/pelk_atto_digits_cls.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))), head=dict(in_channels=20))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(indices=8))
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=8))
total_batch_size = 4
train_cfg = dict(max_epochs=3, val_interval=10)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
"""


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('safety')
    make_digits(home / 'data/digits', size=32, copies=1)
    (home / 'small.py').write_text(CONFIG)
    return home


@pytest.mark.parametrize(
    'tool, arguments',
    [
        ('train.py', ['small.py', '--resume', '{path}']),
        ('train.py', ['small.py', '--resume', '--work-dir', '{folder}']),
        ('train.py', ['small.py', '--cfg-options', 'load_from={path}']),
        ('train.py', ['small.py', '--pretrained', '{path}']),
        (
            'train.py',
            ['small.py', '--cfg-options', 'model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint={path}'],
        ),
        ('test.py', ['small.py', '{path}']),
        ('image_demo.py', ['small.py', '{path}', 'data/digits/val/3/3_0000.jpg']),
        ('convert_checkpoint.py', ['small.py', '{path}', 'out.pth']),
        ('resize_checkpoint.py', ['{path}', 'out.pth', '--kernel-sizes', '51', '49', '47', '13']),
        ('deploy.py', ['small.py', '{path}', 'out.pth']),
        ('export.py', ['small.py', '{path}', 'out.onnx', '--size', '64', '64']),
        ('demo_app.py', ['small.py', '{path}']),
        ('receptive_field.py', ['small.py', '{path}', '--out', 'out.png']),
        ('measure_resizing.py', ['small.py', '{path}']),
    ],
    ids=lambda value: value if isinstance(value, str) else '-'.join(value[1:3]),
)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(home, tmp_path, fail_tool, tool, arguments):
    if tool == 'demo_app.py' and find_spec('gradio') is None:
        pytest.skip('the extra "app" is not installed')
    path = tmp_path / 'hostile.pth'
    torch.save(dict(state_dict={}, meta={}, extra=RunsCode(tmp_path / 'made')), path)
    (tmp_path / 'last_checkpoint').write_text(str(path))
    message = fail_tool(tool, *[argument.format(path=path, folder=tmp_path) for argument in arguments], cwd=home)
    assert f'checkpoint {path} cannot be loaded safely: ' in message and 'mkdir' in message
    assert not (tmp_path / 'made').exists() and not list(home.glob('out.*'))


def test_resuming_from_weights_alone_ends_in_one_line(home, tmp_path, fail_tool):
    save_untrained(home / 'small.py', tmp_path / 'weights.pth')
    message = fail_tool('train.py', 'small.py', '--resume', tmp_path / 'weights.pth', '--work-dir', tmp_path / 'run', cwd=home)
    assert "weights.pth has no meta['epoch'], meta['iter'], message_hub, so training cannot be resumed from it" in message


@pytest.mark.parametrize('count', [3, 4], ids=['during the checkpoint', 'before last_checkpoint'])
def test_killed_during_a_save(home, run_tool, count):
    """Files are synced in this order: epoch_1.pth, last_checkpoint, epoch_2.pth, last_checkpoint. One checkpoint is kept."""
    work_dir = home / f'killed{count}'
    train_until_killed('small.py', work_dir, count, cwd=home)
    latest = find_latest_checkpoint(str(work_dir))
    assert latest == str(work_dir / 'epoch_1.pth') and 'optimizer' in read_checkpoint(latest)
    assert (work_dir / 'epoch_2.pth').exists() == (count == 4)
    assert len(list(work_dir.glob('.*.unfinished'))) == 1
    if count == 3:
        output = run_tool('train.py', 'small.py', '--work-dir', work_dir, '--resume', cwd=home)
        assert 'resumed epoch: 1' in output
        assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_3.pth']
        assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_3.pth')
        assert not list(work_dir.glob('.*.unfinished'))
