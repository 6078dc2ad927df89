"""The images with which an exported model is traced and compared."""

from __future__ import annotations

import mmcv
import torch
from mmengine.config import Config
from torch import Tensor

from mmpelk.apis.images import read_image
from mmpelk.utils.errors import InputError


def crop_size(cfg: Config) -> tuple[int, int]:
    """Return the (height, width) with which the config trains a segmentor or tests a classifier."""
    sizes = [cfg.model.get('data_preprocessor', {}).get('size')]
    pipeline = (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', [])
    sizes += [step.get('crop_size') for step in pipeline]
    sizes += [
        step.scale[::-1] if isinstance(step.scale, (list, tuple)) else step.scale for step in pipeline if step.type == 'Resize'
    ]
    size = next(filter(None, sizes), None) if cfg.get('default_scope') != 'mmdet' else None
    if size is None:
        raise InputError('the config has no crop size; use --size H W')
    return (size, size) if isinstance(size, int) else tuple(size)


def read_tensor(path: str, size: tuple[int, int]) -> Tensor:
    """Read an image file as a (1, 3, H, W) RGB tensor with values from 0 to 255."""
    image = mmcv.imresize(mmcv.bgr2rgb(read_image(path)), (size[1], size[0]))
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def random_images(size: tuple[int, int]) -> Tensor:
    return 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
