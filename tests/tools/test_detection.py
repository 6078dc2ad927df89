"""Detection through the command line, and what wrong annotations get."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import CONFIGS, TOOLS, tool_env

pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")

DEMO = CONFIGS / 'demo/cascade_mask_rcnn_pelk_atto_digits.py'
COCO = CONFIGS / 'cascade_mask_rcnn_pelk_t_coco.py'
SMALL_BACKBONE = 'backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)))'


@pytest.fixture(scope='module')
def small_demo(tmp_path_factory):
    """The demo config with a model of seconds."""
    path = tmp_path_factory.mktemp('config') / 'small.py'
    path.write_text(
        f"_base_ = '{DEMO}'\n"
        f'model = dict({SMALL_BACKBONE}, neck=dict(in_channels=[20] * 4))\n'
        'train_dataloader = dict(batch_size=2, dataset=dict(indices=4))\n'
        'val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        'train_cfg = dict(max_epochs=1)\n'
        'default_hooks = dict(logger=dict(interval=1))\n'
    )
    return path


@pytest.fixture(scope='module')
def trained(small_demo, digit_scenes):
    work_dir = digit_scenes / 'det'
    command = [sys.executable, str(TOOLS / 'train.py'), str(small_demo), '--work-dir', str(work_dir)]
    result = subprocess.run(command, cwd=digit_scenes, env=tool_env(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return work_dir / 'epoch_1.pth'


def average_precisions(output):
    """The last box AP and mask AP that mmdet printed."""
    return [float(re.findall(rf'coco/{kind}_mAP: (-?[\d.]+)', output)[-1]) for kind in ('bbox', 'segm')]


def test_coco_config_trains_and_tests(coco, run_tool):
    """The unchanged PeLK-T config for one epoch of one iteration."""
    # After one iteration no score reaches 0.05, and of no detection at all mmdet prints no AP.
    options = ['--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0', 'train_cfg.max_epochs=1']
    output = run_tool('train.py', COCO, '--work-dir', 'work', *options, cwd=coco)
    expected = average_precisions(output)
    output = run_tool('test.py', COCO, 'work/epoch_1.pth', '--work-dir', 'tested', *options, cwd=coco)
    assert average_precisions(output) == expected and all(-1 <= value <= 1 for value in expected)


def test_test_and_draw(small_demo, digit_scenes, trained, run_tool):
    arguments = ['--work-dir', 'tested', '--show-dir', 'shown_det', '--out', 'predictions.pkl']
    output = run_tool('test.py', small_demo, trained, *arguments, cwd=digit_scenes)
    assert len(average_precisions(output)) == 2 and (digit_scenes / 'predictions.pkl').stat().st_size > 0
    assert len(list((digit_scenes / 'tested').rglob('shown_det/*'))) == 4
    images = sorted((digit_scenes / 'data/digit_scenes/images/validation').iterdir())[:2]
    run_tool('image_demo.py', small_demo, trained, *images, '--out-dir', 'boxes', cwd=digit_scenes)
    assert sorted(path.name for path in (digit_scenes / 'boxes').iterdir()) == [path.stem + '.png' for path in images]


@pytest.mark.parametrize('size', [(1, 1333), (800, 1333), (33, 47), (47, 33)])
@pytest.mark.parametrize('confident', [True, False])
def test_inference_on_odd_sizes(tmp_path, size, confident):
    """With COCO's test pipeline: boxes and masks in the image's own coordinates; an all-black image and no detection at all too."""
    from mmpelk.apis import inference, init_model
    from mmpelk.engine.config import read_config

    path = tmp_path / 'tiny.py'
    path.write_text(f"_base_ = '{COCO}'\nmodel = dict({SMALL_BACKBONE}, neck=dict(in_channels=[20] * 4, out_channels=256))\n")
    cfg = read_config(str(path))
    cfg.model.test_cfg.rpn.max_per_img = 10
    cfg.model.test_cfg.rcnn.score_thr = 0.0 if confident else 1.1
    torch.save(dict(state_dict=build(cfg).state_dict()), tmp_path / 'x.pth')
    image = np.zeros((*size, 3), np.uint8)
    if confident:
        image[:] = np.random.default_rng(0).integers(0, 255, image.shape)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    [sample] = inference(init_model(cfg, tmp_path / 'x.pth', 'cpu'), tmp_path / 'image.png', tmp_path / 'drawn')
    found = sample.pred_instances
    assert sample.ori_shape == size and found.masks.shape == (len(found), *size) and found.bboxes.shape == (len(found), 4)
    assert (len(found) > 0) == confident
    if len(found):
        assert found.bboxes[:, 0::2].max() <= size[1] and found.bboxes[:, 1::2].max() <= size[0] and found.bboxes.min() >= 0
    picture = cv2.imread(str(tmp_path / 'drawn/image.png'))
    assert picture.shape[0] * size[1] == picture.shape[1] * size[0]


def build(cfg):
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def test_layer_decay_puts_pelk_into_convnexts_groups():
    from mmdet.engine.optimizers import LearningRateDecayOptimizerConstructor
    from mmengine.config import Config

    cfg = Config.fromfile(CONFIGS / 'cascade_mask_rcnn_pelk_s_coco.py')
    cfg.model.backbone.arch = dict(depths=(3, 3, 27, 3), channels=(8, 8, 8, 8))
    cfg.model.neck.in_channels = [10] * 4
    model = build(cfg)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    optimizer = LearningRateDecayOptimizerConstructor(wrapper, dict(decay_rate=0.5, decay_type='layer_wise', num_layers=12))(
        model
    )
    groups = {name: group for group in optimizer.optimizer.param_groups for name in group['param_names']}
    assert set(groups) == {name for name, _ in model.named_parameters()}

    def layer(name):
        return 13 + round(np.log2(groups[name]['lr']))

    blocks = [(0, 0, 1), (0, 2, 1), (1, 0, 2), (2, 0, 3), (2, 3, 4), (2, 26, 11), (3, 0, 12)]
    for stage, block, expected in blocks:
        for part in ('token_mixer.large.weight', 'token_mixer.small.weight', 'norm.bias', 'gamma', 'pointwise_conv2.weight'):
            assert layer(f'backbone.stages.{stage}.{block}.{part}') == expected
    assert [layer(f'backbone.stages.{stage}.0.token_mixer.pos_embed.bias') for stage in range(4)] == [1, 2, 3, 12]
    assert [layer(f'backbone.downsample_layers.{i}.{0 if i == 0 else 1}.weight') for i in range(4)] == [0, 2, 3, 12]
    assert layer('roi_head.mask_head.0.conv_logits.weight') == 13
    for name, parameter in model.named_parameters():
        exempt = name.endswith('.bias') or parameter.ndim == 1  # biases, h among them; norms; layer scale
        assert groups[name]['weight_decay'] == (0 if exempt else 0.05), name


def test_wrong_annotations(fail_tool, digit_scenes, small_demo, trained, tmp_path):
    shutil.copytree(digit_scenes / 'data', tmp_path / 'data')
    path = tmp_path / 'data/digit_scenes/instances_validation.json'
    whole = path.read_text()

    def spoil(text):
        path.write_text(text)
        return fail_tool('test.py', small_demo, trained, cwd=tmp_path)

    assert 'instances_validation.json is no valid JSON' in spoil(whole[:500])
    assert "names image 'gone.jpg'" in spoil(whole.replace('validation_0001.jpg', 'gone.jpg'))
    assert "has no category '7'" in spoil(whole.replace('"name": "7"', '"name": "seven"'))
    data = json.loads(whole)
    data['annotations'][3]['bbox'] = [120, 5, 60, 60]
    assert 'annotation 4: box [120, 5, 60, 60] lies outside its image' in spoil(json.dumps(data))
    path.write_text(whole)
    message = fail_tool('test.py', small_demo, trained, '--cfg-options', 'model.roi_head.mask_head.num_classes=9', cwd=tmp_path)
    assert 'model.roi_head.mask_head.num_classes is 9, but the data set has 10 classes' in message
