"""Draw predictions as pictures and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from mmpelk.utils.errors import InputError

from .images import Source

# Smaller images are magnified before drawing, so that class names are legible.
DRAWN_SIZE = 512


def draw(model: nn.Module, cfg: Config, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
    """Draw a prediction on its image. Image and drawing are (H, W, 3) uint8 BGR arrays. Small images are magnified."""
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
    """Scale the label maps, boxes, and masks of a sample by an integer factor."""
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


@contextlib.contextmanager
def picture_writer(source: Source, out_dir: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that writes the BGR pictures of a source. A video file appears only once it is complete."""
    if not source.is_video:
        yield lambda picture: mmcv.imwrite(picture, str(out_dir / source.picture_name))
        return
    unfinished, video = out_dir / f'.{source.name}-unfinished.mp4', None

    def write(picture: np.ndarray) -> None:
        nonlocal video
        if video is None:
            out_dir.mkdir(parents=True, exist_ok=True)
            size = picture.shape[1::-1]
            video = cv2.VideoWriter(str(unfinished), cv2.VideoWriter_fourcc(*'mp4v'), source.frames.fps or 25, size)
            if not video.isOpened():
                raise InputError(f'OpenCV cannot write the video {out_dir / source.picture_name}')
        video.write(picture)

    try:
        yield write
        video.release()  # it exists, because a video without frames raises an error earlier
        unfinished.replace(out_dir / source.picture_name)
    finally:
        unfinished.unlink(missing_ok=True)


def grid_of(pictures: list[np.ndarray]) -> np.ndarray:
    """Arrange pictures on one roughly square sheet. Each is scaled to fit into the size of the first picture."""
    height, width = pictures[0].shape[:2]
    columns = int(np.ceil(len(pictures) ** 0.5))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        small = mmcv.imrescale(picture, min(height / picture.shape[0], width / picture.shape[1]))
        small = small[:height, :width]
        top, left = index // columns * height, index % columns * width
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def draw_sheet(pictures: Sequence[Path], out: Path) -> None:
    """Draw the pictures in some files on one sheet (:func:`grid_of`)."""
    mmcv.imwrite(grid_of([mmcv.imread(str(path)) for path in pictures]), str(out))
