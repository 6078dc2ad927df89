"""tools/dist_train.sh and tools/dist_test.sh: two processes (gloo, CPU) give the same results as one."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from conftest import CONFIGS, TOOLS, free_port, tool_env

from mmpelk.checkpoints import read_checkpoint

# When complete training runs on one and on two processes are compared, BatchNorm is frozen, because its statistics differ without SyncBN,
# which needs GPUs. Nothing is random: there is no augmentation, no dropout, and no drop path, and every box is sampled. Rank 0 sees the
# images 0 and 2, and rank 1 the images 1 and 3. A single process sees the same images in sequence, and accumulates the gradients.
COMMON = """
_base_ = '{base}'
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
    dataset=dict(indices={indices}, pipeline=[{pipeline}]))
test_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters={max_iters}, val_interval=100)
val_dataloader, val_cfg, val_evaluator = None, None, None
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01), accumulative_counts={accumulate})
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100), logger=dict(interval=1, log_metric_by_epoch=False))
log_processor = dict(window_size=1, by_epoch=False)
custom_imports = dict(imports=['mmpelk', 'mmpelk.datasets.digit_scenes_dataset', 'freeze'])
custom_hooks = [dict(type='FreezeBatchNormAndDropout')]
"""
EVERY_BOX = """
model = dict(
    train_cfg=dict(
        rpn=dict(sampler=dict(num=100000)),
        rcnn=[
            dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=t, neg_iou_thr=t, min_pos_iou=t, match_low_quality=False,
                              ignore_iof_thr=-1),
                sampler=dict(type='RandomSampler', num=100000, pos_fraction=1.0, neg_pos_ub=-1, add_gt_as_proposals=True),
                mask_size=28, pos_weight=-1, debug=False)
            for t in (0.5, 0.6, 0.7)
        ]),
    test_cfg=dict(rcnn=dict(score_thr=0.0)))
"""
HOOK = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class FreezeBatchNormAndDropout(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.Dropout2d)):
                module.eval()
"""
TASKS = {
    'segmentation': (
        'upernet_pelk_atto_digits.py',
        "dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True), dict(type='PackSegInputs')",
        '',
        r'(mIoU): ([\d.]+)',
    ),
    'detection': (
        'cascade_mask_rcnn_pelk_atto_digits.py',
        "dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')",
        EVERY_BOX,
        r'coco/(bbox|segm)_mAP: ([\d.-]+)',
    ),
}
STEPS = 2


def launch(script, *arguments, cwd):
    command = ['bash', str(TOOLS / script), *map(str, arguments)]
    env = {**tool_env(), 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, 'PORT': str(free_port()), 'PYTHONPATH': str(cwd)}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def predictions(path):
    """The labels of the pixels in a folder of label maps, or the detections in a file, by image."""
    if path.is_dir():
        return {file.stem: cv2.imread(str(file), cv2.IMREAD_UNCHANGED).ravel().tolist() for file in path.iterdir()}
    with open(path, 'rb') as file:
        images = {Path(image['img_path']).stem: image['pred_instances'] for image in pickle.load(file)}
    return {
        name: [
            (label, score, *box, mask['counts'])
            for label, score, box, mask in zip(
                *(found[key].tolist() for key in ('labels', 'scores', 'bboxes')), found['masks'], strict=True
            )
        ]
        for name, found in images.items()
    }


@pytest.mark.parametrize('task', TASKS)
def test_two_processes_train_and_test_as_one(task, digit_scenes, tmp_path):
    if task == 'detection':
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    (tmp_path / 'data').symlink_to(digit_scenes / 'data')
    (tmp_path / 'freeze.py').write_text(HOOK)
    name, pipeline, extra, metric = TASKS[task]
    losses, weights, metrics, predicted = {}, {}, {}, {}
    for processes in (1, 2):
        config, work_dir = tmp_path / f'on{processes}.py', tmp_path / f'work{processes}'
        passes = 2 // processes  # iterations per optimizer step
        config.write_text(
            COMMON.format(
                base=CONFIGS / 'demo' / name,
                indices=[0, 2, 1, 3] if processes == 1 else [0, 1, 2, 3],
                pipeline=pipeline,
                max_iters=STEPS * passes,
                accumulate=passes,
            )
            + extra
        )
        launch('dist_train.sh', config, processes, '--work-dir', work_dir, cwd=tmp_path)
        lines = [line for path in work_dir.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines()]
        losses[processes] = [json.loads(line)['loss'] for line in lines][::passes]  # the losses of rank 0's images
        weights[processes] = read_checkpoint(work_dir / f'iter_{STEPS * passes}.pth')['state_dict']
        out = tmp_path / (f'predicted{processes}' + ('.pkl' if task == 'detection' else ''))
        options = ['--work-dir', 'tested', '--out', out]
        output = launch('dist_test.sh', config, tmp_path / f'work1/iter_{2 * STEPS}.pth', processes, *options, cwd=tmp_path)
        metrics[processes], predicted[processes] = re.findall(metric, output), predictions(out)
    assert len(losses[1]) == STEPS
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1][0] != losses[1][1]
    for key, value in weights[1].items():
        torch.testing.assert_close(value, weights[2][key], rtol=1e-4, atol=1e-4, msg=key)
    assert metrics[1] == metrics[2] and metrics[1]
    assert len(predicted[1]) == 4 and all(len(set(found)) > 1 for found in predicted[1].values())
    assert predicted[1] == predicted[2]


LIVE = """
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class FreezeBatchNormAndDropout(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        assert all(module.training for module in runner.model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm))
        self.drawn = random.random(), float(np.random.rand()), torch.rand(1).item()

    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        torch.save((model.state_dict(), self.drawn), f'{runner.work_dir}/rank{get_rank()}.pth')
"""


def test_live_batch_norm_on_two_processes(digit_scenes, tmp_path):
    """BatchNorm is not frozen. Its running mean is computed from the images of both processes, as if one process had seen all of them.

    Stochastic depth and mixup differ between the processes, as in the code of ConvNeXt and SLaK.
    """
    (tmp_path / 'data').symlink_to(digit_scenes / 'data')
    (tmp_path / 'freeze.py').write_text(LIVE)
    name, pipeline, *_ = TASKS['segmentation']
    for processes in (1, 2):
        config = tmp_path / f'on{processes}.py'
        text = COMMON.format(base=CONFIGS / 'demo' / name, indices=[0, 1, 2, 3], pipeline=pipeline, max_iters=1, accumulate=1)
        config.write_text(text.replace('batch_size=2', f'batch_size={4 // processes}'))
        launch('dist_train.sh', config, processes, '--work-dir', tmp_path / f'work{processes}', cwd=tmp_path)
    (alone, _), *both = (
        torch.load(tmp_path / path, weights_only=True) for path in ('work1/rank0.pth', 'work2/rank0.pth', 'work2/rank1.pth')
    )
    ranks, drawn = zip(*both, strict=True)
    assert not set(drawn[0]) & set(drawn[1])
    for key, value in ranks[0].items():
        assert torch.equal(value, ranks[1][key]), key
    first = 'backbone.stages.0.0.token_mixer.large_norm.running_mean'
    assert alone[first].abs().max() > 1e-3
    torch.testing.assert_close(ranks[0][first], alone[first], rtol=1e-4, atol=1e-6)
