"""A model of mmseg, mmdet or mmpretrain on image files, and its predictions as pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmpelk.checkpoints import check_fit, model_weights, read_checkpoint
from mmpelk.errors import InputError
from mmpelk.launch import NamingPipeline

# Smaller images are magnified before drawing, so that names can be read.
DRAWN_SIZE = 512


def load_model(cfg: Config, checkpoint_path: str, device: str | None = None) -> nn.Module:
    """Build the config's model with a checkpoint's weights, in eval mode, with ``dataset_meta`` set.

    Raises:
        InputError: If the checkpoint is missing, broken, unsafe, of another model, or does not tell its classes.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    checkpoint = read_checkpoint(checkpoint_path)
    weights = model_weights(checkpoint)
    check_fit(weights, model, checkpoint_path)
    model.load_state_dict(weights)
    model.dataset_meta = checkpoint.get('meta', {}).get('dataset_meta') or _dataset_meta(cfg.test_dataloader.dataset)
    if not model.dataset_meta:
        raise InputError(f'neither checkpoint {checkpoint_path} (meta.dataset_meta) nor the config names the classes')
    return model.to(device or get_device()).eval()


def _dataset_meta(dataset: ConfigDict) -> dict | None:
    """The classes and palette of a dataset's config, or of its class."""
    if 'metainfo' in dataset:
        return dataset.metainfo
    with DATASETS.switch_scope_and_registry(None) as registry:
        return getattr(registry.get(dataset.type), 'METAINFO', None)


def predict(model: nn.Module, cfg: Config, image_path: str) -> BaseDataElement:
    """The data sample that the config's test pipeline and the model make of an image.

    Raises:
        InputError: If the file is missing or no image.
    """
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'LoadAnnotations' not in str(step['type'])]
    data = NamingPipeline(Compose(steps))(dict(img_path=image_path, img_id=0))
    with torch.no_grad():
        return model.test_step(pseudo_collate([data]))[0]


def draw(model: nn.Module, cfg: Config, image_path: str, sample: BaseDataElement) -> np.ndarray:
    """A picture of the prediction on the image, (H, W, 3) uint8 RGB."""
    visualizer = VISUALIZERS.build({'name': 'drawing', **cfg.visualizer, 'vis_backends': None})
    visualizer.dataset_meta = model.dataset_meta
    image = mmcv.imread(image_path, channel_order='rgb', backend='pillow')
    factor = max(1, DRAWN_SIZE // max(image.shape[:2]))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    sample = _magnify(sample.cpu().clone(), factor)
    if cfg.default_scope == 'mmpretrain':
        return visualizer.visualize_cls(image, sample, draw_gt=False)
    visualizer.add_datasample(Path(image_path).name, image, sample, draw_gt=False)
    return visualizer.get_image()


def _magnify(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """Enlarge what a sample says about pixels by a whole factor."""
    if 'pred_sem_seg' in sample:
        sample.pred_sem_seg = PixelData(data=_repeat(sample.pred_sem_seg.data, factor))
    if 'pred_instances' in sample:
        sample.pred_instances.bboxes = sample.pred_instances.bboxes * factor
        if 'masks' in sample.pred_instances:
            sample.pred_instances.masks = _repeat(sample.pred_instances.masks, factor)
    return sample


def _repeat(maps: torch.Tensor, factor: int) -> torch.Tensor:
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
