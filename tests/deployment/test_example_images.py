"""The sizes and images with which models are exported."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmpelk.deployment.example_images import crop_size, random_images, read_tensor
from mmpelk.utils.errors import InputError


def config(*pipeline, scope='mmseg', **preprocessor):
    loader = dict(dataset=dict(pipeline=list(pipeline)))
    return Config(dict(default_scope=scope, model=dict(data_preprocessor=preprocessor), test_dataloader=loader))


@pytest.mark.parametrize(
    'cfg, size',
    [
        (config(size=(512, 256)), (512, 256)),
        (config(dict(type='Resize', scale=(2048, 512)), size=(512, 256)), (512, 256)),
        (config(dict(type='Resize', scale=(640, 480))), (480, 640)),  # mmcv's scales are (width, height)
        (config(dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224), scope='mmpretrain'), (224, 224)),
        (config(dict(type='Resize', scale=64), scope='mmpretrain'), (64, 64)),
        (config(dict(type='Resize', scale=64), dict(type='CenterCrop', crop_size=(32, 48)), scope='mmpretrain'), (32, 48)),
    ],
)
def test_crop_size(cfg, size):
    assert crop_size(cfg) == size


@pytest.mark.parametrize(
    'cfg', [config(dict(type='Resize', scale=(1333, 800)), scope='mmdet'), config(dict(type='Load')), Config(dict(model={}))]
)
def test_no_crop_size(cfg):
    with pytest.raises(InputError, match='the config has no crop size; use --size H W'):
        crop_size(cfg)


def test_images_are_rgb_tensors(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[:2], image[2:] = (255, 20, 10), (0, 0, 100)  # BGR
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    tensor = read_tensor(str(tmp_path / 'image.png'), (4, 6))
    assert tensor.shape == (1, 3, 4, 6) and tensor.dtype == torch.float32
    assert tensor[0, :, 0, 0].tolist() == [10, 20, 255] and tensor[0, :, 3, 5].tolist() == [100, 0, 0]
    assert read_tensor(str(tmp_path / 'image.png'), (8, 3)).shape == (1, 3, 8, 3)


def test_random_images_are_the_same_in_every_call():
    images = random_images((5, 7))
    assert images.shape == (1, 3, 5, 7) and torch.equal(images, random_images((5, 7)))
    assert images.min() >= 0 and 200 < images.max() <= 255
