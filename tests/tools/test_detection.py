"""Detection through the command line, and the errors for invalid annotations."""

import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CONFIGS, TOOLS, tool_env
from pycocotools.coco import COCO as Annotations
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode

from mmpelk.apis import inference, init_model
from mmpelk.checkpoints import read_checkpoint

pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")

DEMO = CONFIGS / 'demo/cascade_mask_rcnn_pelk_atto_digits.py'
COCO = CONFIGS / 'cascade_mask_rcnn_pelk_t_coco.py'
SMALL_BACKBONE = 'backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)))'


@pytest.fixture(scope='module')
def small_demo(tmp_path_factory):
    """Return the demo config with a model that trains in seconds."""
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
    """Return the last box AP and mask AP that mmdet printed."""
    return [float(re.findall(rf'coco/{kind}_mAP: (-?[\d.]+)', output)[-1]) for kind in ('bbox', 'segm')]


def test_coco_config_trains_and_tests(coco, run_tool):
    """Train the PeLK-T config with fewer boxes for one epoch of one iteration. Validation and test give the same detections."""
    # After one iteration, no score reaches the config's threshold, and mmdet prints no AP if there are no detections.
    options = [
        '--cfg-options',
        'model.test_cfg.rcnn.score_thr=0.0',
        'train_cfg.max_epochs=1',
        'model.test_cfg.rpn.max_per_img=100',
    ]
    options += [f'model.train_cfg.rcnn.{stage}.sampler.num=64' for stage in range(3)]
    options += ['val_evaluator.outfile_prefix=validated', 'test_evaluator.outfile_prefix=tested']
    expected = average_precisions(run_tool('train.py', COCO, '--work-dir', 'work', *options, cwd=coco))
    output = run_tool('test.py', COCO, 'work/epoch_1.pth', '--work-dir', 'work', *options, cwd=coco)
    assert average_precisions(output) == expected and all(-1 <= value <= 1 for value in expected)
    for kind in ('bbox', 'segm'):
        validated, tested = (json.loads((coco / f'{name}.{kind}.json').read_text()) for name in ('validated', 'tested'))
        assert tested == validated
        assert (
            len(tested) == 200
            and len({item['score'] for item in tested}) > 100
            and {item['image_id'] for item in tested} == {100, 101}
        )


def annotate_with_detections(path, config, checkpoint, data):
    """Write annotations in which some of a model's own detections are the truth. The detections of a few iterations find no digit."""
    content = json.loads((data / 'instances_validation.json').read_text())
    images = [data / 'images/validation' / image['file_name'] for image in content['images']]
    samples = inference(init_model(config, checkpoint, 'cpu'), images, progress=False)
    content['annotations'] = []
    for image, sample in zip(content['images'], samples, strict=True):
        found = sample.pred_instances[::3]
        for label, box, mask in zip(found.labels.tolist(), found.bboxes.int().tolist(), found.masks.numpy(), strict=True):
            left, top, right, bottom = box
            if mask.sum() > 9 and right > left and bottom > top:
                run_lengths = encode(np.asfortranarray(mask.astype(np.uint8)))
                content['annotations'].append(
                    dict(
                        id=len(content['annotations']) + 1,
                        image_id=image['id'],
                        category_id=content['categories'][label]['id'],
                        bbox=[left, top, right - left, bottom - top],
                        area=int(mask.sum()),
                        segmentation=dict(run_lengths, counts=run_lengths['counts'].decode()),
                        iscrowd=0,
                    )
                )
    path.write_text(json.dumps(content))


def evaluate(annotations, detections, kind):
    """Return the AP of detections that mmdet has written, computed by pycocotools alone."""
    truth = Annotations(str(annotations))
    results = []
    for image in detections:
        found = image['pred_instances']
        for label, score, box, mask in zip(
            found['labels'], found['scores'], found['bboxes'].tolist(), found['masks'], strict=True
        ):
            left, top, right, bottom = box
            shape = dict(bbox=[left, top, right - left, bottom - top]) if kind == 'bbox' else dict(segmentation=mask)
            results.append(dict(shape, image_id=image['img_id'], category_id=truth.getCatIds()[label], score=float(score)))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_test_and_draw(small_demo, digit_scenes, trained, run_tool):
    annotations = digit_scenes / 'detections.json'
    annotate_with_detections(annotations, small_demo, trained, digit_scenes / 'data/digit_scenes')
    arguments = ['--work-dir', 'tested', '--show-dir', 'shown_det', '--out', 'predictions.pkl', '--cfg-options']
    arguments += [f'test_dataloader.dataset.ann_file={annotations}', f'test_evaluator.ann_file={annotations}']
    output = run_tool('test.py', small_demo, trained, *arguments, cwd=digit_scenes)
    detections = pickle.loads((digit_scenes / 'predictions.pkl').read_bytes())
    expected = [evaluate(annotations, detections, kind) for kind in ('bbox', 'segm')]
    assert average_precisions(output) == pytest.approx(expected, abs=5.1e-4) and min(expected) > 0.1  # mmdet rounds to 3 digits
    assert len(list((digit_scenes / 'tested').rglob('shown_det/*'))) == 4
    images = sorted((digit_scenes / 'data/digit_scenes/images/validation').iterdir())[:2]
    run_tool('image_demo.py', small_demo, trained, *images, '--out-dir', 'boxes', cwd=digit_scenes)
    assert sorted(path.name for path in (digit_scenes / 'boxes').iterdir()) == [path.stem + '.png' for path in images]


def test_a_resumed_run_continues_bit_for_bit(small_demo, digit_scenes, trained, run_tool):
    """Boxes are sampled at random, too."""
    options = ['--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=9']
    for work_dir in ('det_straight', 'det_stopped'):
        resume = ['--resume', trained] if work_dir == 'det_stopped' else []
        run_tool('train.py', small_demo, '--work-dir', work_dir, *resume, *options, cwd=digit_scenes)
    start, straight, resumed = (
        read_checkpoint(path)['state_dict']
        for path in (trained, digit_scenes / 'det_straight/epoch_2.pth', digit_scenes / 'det_stopped/epoch_2.pth')
    )
    assert all(torch.equal(value, straight[name]) for name, value in resumed.items())
    assert not all(torch.equal(value, straight[name]) for name, value in start.items())


def test_wrong_annotations(fail_tool, digit_scenes, small_demo, trained, tmp_path):
    shutil.copytree(digit_scenes / 'data', tmp_path / 'data')
    path = tmp_path / 'data/digit_scenes/instances_validation.json'
    whole = path.read_text()

    def damage(text):
        path.write_text(text)
        return fail_tool('test.py', small_demo, trained, cwd=tmp_path)

    assert 'instances_validation.json is not valid JSON' in damage(whole[:500])
    assert "lists image 'gone.jpg'" in damage(whole.replace('validation_0001.jpg', 'gone.jpg'))
    assert "has no category '7'" in damage(whole.replace('"name": "7"', '"name": "seven"'))
    data = json.loads(whole)
    data['annotations'][3]['bbox'] = [120, 5, 60, 60]
    assert 'annotation 4: box [120, 5, 60, 60] is not inside its image' in damage(json.dumps(data))
    path.write_text(whole)
    message = fail_tool('test.py', small_demo, trained, '--cfg-options', 'model.roi_head.mask_head.num_classes=9', cwd=tmp_path)
    assert 'model.roi_head.mask_head.num_classes is 9, but the dataset has 10 classes' in message
