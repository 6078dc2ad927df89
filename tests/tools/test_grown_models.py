"""Growing through the command line: a fine-tuned 7x7 segmentor is tested, grown, trained, resumed, folded, and exported."""

import re

import pytest
import torch
from conftest import CONFIGS, save_untrained

PLAIN = f"""
_base_ = '{CONFIGS}/demo/upernet_pelk_atto_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 12, 16, 20]),
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    decode_head=dict(in_channels=[8, 12, 16, 20], channels=8),
    auxiliary_head=dict(in_channels=16, channels=8),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1))
"""
GROWN = """
_base_ = 'plain.py'
model = dict(backbone=dict(
    _delete_=True, type='GrownBackbone', backbone=_base_.model.backbone, kernel_sizes=(21, 15, 13, 9)))
"""


@pytest.fixture(scope='module')
def home(digit_scenes):
    (digit_scenes / 'plain.py').write_text(PLAIN)
    (digit_scenes / 'grown.py').write_text(GROWN)
    save_untrained(digit_scenes / 'plain.py', digit_scenes / 'plain.pth')
    return digit_scenes


def metrics(output):
    return re.findall(r'(?:aAcc|mIoU|mAcc): [\d.]+', output)[-3:]


def test_from_a_fine_tuned_segmentor_to_an_exported_one(home, run_tool, tmp_path):
    plain, grown = (
        run_tool('test.py', f'{name}.py', 'plain.pth', '--work-dir', tmp_path, cwd=home) for name in ('plain', 'grown')
    )
    assert len(metrics(plain)) == 3 and metrics(grown) == metrics(plain)
    assert '4 kernels grown' in grown and 'stages.0.0.depthwise_conv: 7x7 -> 21x21, 8 channels' in grown

    options = ['--work-dir', tmp_path / 'work', '--cfg-options', 'load_from=plain.pth']
    trained = run_tool('train.py', 'grown.py', *options, cwd=home)
    before, after = (
        torch.load(path, weights_only=False)['state_dict'] for path in (home / 'plain.pth', tmp_path / 'work/iter_2.pth')
    )
    kernel = after['backbone.stages.0.0.depthwise_conv.weight']
    assert kernel.shape == (8, 1, 11, 11) and after['backbone.stages.0.0.depthwise_conv.half_grid'].sum() == 11
    difference = kernel[..., 2:9, 2:9] - before['backbone.stages.0.0.depthwise_conv.weight']
    assert 0 < difference.abs().max() < 0.01 and 0 < kernel[..., 0].abs().max() < 0.01  # the learning rate is about 1e-5

    more = ['--work-dir', tmp_path / 'work', '--resume', '--cfg-options', 'train_cfg.max_iters=3']
    resumed = run_tool('train.py', 'grown.py', *more, cwd=home)
    assert 'resumed epoch: 0, iter: 2' in resumed and (tmp_path / 'work/iter_3.pth').exists()

    tested = run_tool('test.py', 'grown.py', tmp_path / 'work/iter_2.pth', '--work-dir', tmp_path, cwd=home)
    assert metrics(tested) == metrics(trained)
    printed = run_tool('deploy.py', 'grown.py', tmp_path / 'work/iter_2.pth', tmp_path / 'plain.pth', cwd=home)
    assert 'features differ by' in printed
    deployed = run_tool('test.py', tmp_path / 'plain.py', tmp_path / 'plain.pth', '--work-dir', tmp_path, cwd=home)
    assert metrics(deployed) == metrics(tested)
    exported = run_tool('export.py', 'grown.py', tmp_path / 'work/iter_2.pth', tmp_path / 'seg.onnx', cwd=home)
    assert '100.00% of the predictions agree' in exported


def test_what_is_refused(home, fail_tool, tmp_path):
    names = ['grown.py', 'plain.pth', tmp_path / 'out.pth']
    message = fail_tool('deploy.py', *names, '--keep-grid', cwd=home)
    assert 'nothing to fold except its grids' in message
    weights = torch.load(home / 'plain.pth', weights_only=False)
    del weights['state_dict']['backbone.stages.0.0.depthwise_conv.weight']
    torch.save(weights, tmp_path / 'broken.pth')
    message = fail_tool('train.py', 'grown.py', '--cfg-options', f'load_from={tmp_path}/broken.pth', cwd=home)
    assert '1 are missing (backbone.stages.0.0.depthwise_conv.weight)' in message
    torch.save({'layer1.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    message = fail_tool('train.py', 'grown.py', '--pretrained', tmp_path / 'other.pth', cwd=home)
    assert 'other.pth does not fit the backbone' in message
