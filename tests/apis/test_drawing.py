"""Predictions are drawn at the place and in the size of their images."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from small_models import SEGMENTOR, save_model

from mmpelk.apis import inference, init_model
from mmpelk.apis.drawing import _magnify, grid_of
from mmpelk.engine.config import read_config


def test_predictions_are_magnified():
    labels = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    instances = InstanceData(bboxes=torch.tensor([[0.0, 0.5, 1.0, 2.0]]), masks=labels == 3)
    sample = BaseDataElement(
        pred_sem_seg=PixelData(data=labels), pred_panoptic_seg=PixelData(sem_seg=labels), pred_instances=instances
    )
    large = _magnify(sample, 2)
    expected = np.kron(labels.numpy(), np.ones((1, 2, 2), int))
    for found in (large.pred_sem_seg.data, large.pred_panoptic_seg.sem_seg):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(large.pred_instances.masks, expected == 3)
    assert large.pred_instances.bboxes.tolist() == [[0, 1, 2, 4]]


def test_pictures_on_a_sheet():
    """Three pictures make a sheet of 2x2. A picture of another shape is scaled into its place, and the last place stays white."""
    one, two, tall = np.full((10, 20, 3), 1, np.uint8), np.full((10, 20, 3), 2, np.uint8), np.full((40, 20, 3), 3, np.uint8)
    sheet = grid_of([one, two, tall])
    assert sheet.shape == (20, 40, 3)
    assert (sheet[:10, :20] == 1).all() and (sheet[:10, 20:] == 2).all() and (sheet[10:, :5] == 3).all()
    assert (sheet[10:, 5:] == 255).all()


def test_neither_a_palette_nor_a_visualizer_is_needed(tmp_path):
    config, path = save_model(tmp_path, 'seg', SEGMENTOR)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['dataset_meta'].pop('palette', None)
    torch.save(checkpoint, path)
    cfg = read_config(str(config))
    cfg.pop('visualizer')
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    inference(init_model(cfg, path, 'cpu'), image, tmp_path / 'drawn', progress=False)
    (picture,) = (tmp_path / 'drawn').iterdir()
    assert cv2.imread(str(picture)).shape == (320, 512, 3)


@pytest.mark.parametrize('size, confident', [((1, 1333), True), ((33, 47), False), ((47, 33), True)])
def test_detections_on_images_of_odd_sizes(size, confident, tmp_path):
    """COCO's test pipeline. Boxes and masks are in the image's own coordinates. An image may be black or have no detections."""
    pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    from conftest import CONFIGS

    backbone = 'backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)))'
    score = 0.0 if confident else 1.1
    text = (
        f"_base_ = '{CONFIGS}/cascade_mask_rcnn_pelk_t_coco.py'\n"
        f'model = dict({backbone}, neck=dict(in_channels=[20] * 4, out_channels=256),\n'
        f'    test_cfg=dict(rpn=dict(max_per_img=10), rcnn=dict(score_thr={score})))\n'
    )
    image = np.zeros((*size, 3), np.uint8)
    if confident:
        image[:] = np.random.default_rng(0).integers(0, 255, image.shape)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    model = init_model(*save_model(tmp_path, 'det', text), 'cpu')
    (sample,) = inference(model, tmp_path / 'image.png', tmp_path / 'drawn', progress=False)
    found = sample.pred_instances
    assert sample.ori_shape == size and found.masks.shape == (len(found), *size) and found.bboxes.shape == (len(found), 4)
    assert (len(found) > 0) == confident
    if len(found):
        assert found.bboxes[:, 0::2].max() <= size[1] and found.bboxes[:, 1::2].max() <= size[0] and found.bboxes.min() >= 0
    picture = cv2.imread(str(tmp_path / 'drawn/image.png'))
    assert picture.shape[0] * size[1] == picture.shape[1] * size[0]
