"""Loading transforms whose errors name the file."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.registry import TRANSFORMS

from mmpelk.errors import InputError


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, AssertionError, SyntaxError, cv2.error) as error:  # Pillow reports a broken PNG as a SyntaxError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f'cannot read {path}: {reason}') from error


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, decoding with Pillow, which refuses a truncated file where OpenCV fills in grey.

    Args:
        **kwargs: As for mmcv's LoadImageFromFile.
    """

    def __init__(self, imdecode_backend='pillow', **kwargs):
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)

    def transform(self, results: dict) -> dict | None:
        """Add ``img``, (H, W, 3) uint8 BGR, and its shapes.

        Raises:
            InputError: If the file is missing, truncated or no image.
        """
        with _naming(results['img_path']):
            return super().transform(results)


@TRANSFORMS.register_module()
class LoadCheckedSegMap(BaseTransform):
    """mmseg's LoadAnnotations, followed by a check of what was read.

    Args:
        num_classes (int): Labels are 0 to ``num_classes - 1``, after ``reduce_zero_label``.
        ignore_index (int): The label that is no class. Defaults to 255.
        **kwargs: As for mmseg's LoadAnnotations.
    """

    def __init__(self, num_classes, ignore_index=255, **kwargs):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.load = TRANSFORMS.build(dict(type='LoadAnnotations', **kwargs))

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, (H, W) uint8.

        Raises:
            InputError: If the file is missing or truncated, its size is not the image's, or a label is no class.
        """
        path = results['seg_map_path']
        with _naming(path):
            results = self.load(results)
        labels = results['gt_seg_map']
        if labels.shape != tuple(results['ori_shape']):
            raise InputError(f'{path} is {labels.shape} pixels, its image {tuple(results["ori_shape"])}; they must be of one size')
        wrong = np.unique(labels[(labels != self.ignore_index) & (labels >= self.num_classes)])
        if len(wrong):
            raise InputError(
                f'{path} holds label {wrong[0]}, but there are {self.num_classes} classes (0 to {self.num_classes - 1}, '
                f'counted after reduce_zero_label={self.load.reduce_zero_label})'
            )
        return results
