"""A model of mmseg, mmdet or mmpretrain on image files, and its predictions as pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image
from torch import Tensor, nn

from mmpelk.checkpoints import check_fit, model_weights, read_checkpoint
from mmpelk.errors import InputError, build_errors, first_line

# Smaller images are magnified before drawing, so that names can be read.
DRAWN_SIZE = 512
# Each framework's own, for configs that name none.
VISUALIZER = dict(mmseg='SegLocalVisualizer', mmdet='DetLocalVisualizer', mmpretrain='UniversalVisualizer')
# Photographs are smaller; beyond, predictions would need tens of gigabytes.
MOST_PIXELS = 2**25


def load_model(cfg: Config, checkpoint_path: str, device: str | None = None) -> nn.Module:
    """Build the config's model with a checkpoint's weights, in eval mode, with ``dataset_meta`` set.

    Raises:
        InputError: If the model cannot be built, the device cannot be used, or the checkpoint is missing, broken, unsafe, of another
            model, or does not tell its classes.
    """
    device = usable_device(device)
    init_default_scope(framework(cfg))
    with build_errors(AttributeError, AssertionError):
        model = MODELS.build(cfg.model)
    checkpoint = read_checkpoint(checkpoint_path)
    weights = model_weights(checkpoint)
    check_fit(weights, model, checkpoint_path)
    model.load_state_dict(weights)
    model.dataset_meta = dataset_meta(cfg, checkpoint, checkpoint_path)
    return model.to(device).eval()


def framework(cfg: Config) -> str:
    """'mmseg', 'mmdet' or 'mmpretrain'.

    Raises:
        InputError: If the config's ``default_scope`` is none of them.
    """
    scope = cfg.get('default_scope')
    if scope not in VISUALIZER:
        raise InputError(f'the default_scope of the config must be one of {tuple(VISUALIZER)}, got {scope!r}')
    return scope


def usable_device(device: str | None) -> str:
    """``device``, by default the GPU if there is one.

    Raises:
        InputError: If torch cannot use it.
    """
    device = device or get_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f'device {device!r} cannot be used: {first_line(error)}') from error
    return device


def normalisation(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the model's preprocessor, (3, 1, 1) each, on the scale of 0 to 255; 0 and 1 where it has none."""
    preprocessor = model.data_preprocessor
    return getattr(preprocessor, 'mean', torch.zeros(3, 1, 1)), getattr(preprocessor, 'std', torch.ones(3, 1, 1))


def dataset_meta(cfg: Config, checkpoint: dict, path: str | Path) -> dict:
    """Classes and palette, as the checkpoint read from ``path`` or else the config's test data names them; a missing palette is drawn.

    Raises:
        InputError: If neither does.
    """
    meta = checkpoint.get('meta', {}).get('dataset_meta') or _dataset_meta((cfg.get('test_dataloader') or {}).get('dataset'))
    if not meta or meta.get('classes') is None:
        raise InputError(f'neither checkpoint {path} (meta.dataset_meta) nor the config names the classes')
    if meta.get('palette') is None:
        palette = np.random.default_rng(0).integers(0, 256, (len(meta['classes']), 3)).tolist()
        meta = dict(meta, palette=palette)
    return meta


def _dataset_meta(dataset: ConfigDict | None) -> dict | None:
    """The classes and palette of a dataset's config, or of its class."""
    while dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if not dataset:
        return None
    if 'metainfo' in dataset:
        return dataset.metainfo
    with DATASETS.switch_scope_and_registry(None) as registry:
        return getattr(registry.get(dataset.type), 'METAINFO', None)


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 BGR, turned as its EXIF says.

    Raises:
        InputError: If the file is missing, no image, truncated, or too large.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(f'image {path} has {width}x{height} pixels; make it smaller than {MOST_PIXELS:,} in all')
            image.load()
        return mmcv.imread(str(path), channel_order='bgr', backend='pillow')
    except FileNotFoundError as error:
        raise InputError(f'image {path} does not exist') from error
    except Image.DecompressionBombError as error:
        raise InputError(f'image {path} is too large, make it smaller than {MOST_PIXELS:,} pixels: {error}') from error
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG as a SyntaxError
        raise InputError(f'cannot read image {path}: {first_line(error)}') from error


def draw(model: nn.Module, cfg: Config, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
    """A picture of the prediction on an image, both (H, W, 3) uint8 BGR."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        visualizer = VISUALIZERS.build({'name': 'drawing', **cfg.visualizer, 'vis_backends': None})
    visualizer.dataset_meta = model.dataset_meta
    factor = max(1, DRAWN_SIZE // max(image.shape[:2]))
    image = mmcv.bgr2rgb(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    sample = _magnify(sample.cpu().clone(), factor)
    if cfg.default_scope == 'mmpretrain':
        return mmcv.rgb2bgr(visualizer.visualize_cls(image, sample, draw_gt=False))
    visualizer.add_datasample('prediction', image, sample, draw_gt=False)
    return mmcv.rgb2bgr(visualizer.get_image())


def _magnify(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """Enlarge what a sample says about pixels by a whole factor."""
    if 'pred_sem_seg' in sample:
        sample.pred_sem_seg = PixelData(data=_repeat(sample.pred_sem_seg.data, factor))
    if 'pred_panoptic_seg' in sample:
        sample.pred_panoptic_seg = PixelData(sem_seg=_repeat(sample.pred_panoptic_seg.sem_seg, factor))
    if 'pred_instances' in sample:
        sample.pred_instances.bboxes = sample.pred_instances.bboxes * factor
        if 'masks' in sample.pred_instances:
            sample.pred_instances.masks = _repeat(sample.pred_instances.masks, factor)
    return sample


def _repeat(maps: Tensor, factor: int) -> Tensor:
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
