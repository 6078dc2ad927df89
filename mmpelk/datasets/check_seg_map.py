"""A transform that refuses ground truth which does not fit."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from mmpelk.utils.errors import InputError


@TRANSFORMS.register_module()
class CheckSegMap(BaseTransform):
    """Check a label map just after LoadAnnotations; without one (inference) there is nothing to check.

    A label beyond the classes would otherwise crash inside the loss in training, and be silently left out of the IoU in testing.

    Args:
        num_classes (int): Labels are 0 to ``num_classes - 1``, after ``reduce_zero_label``.
        ignore_index (int): The label that is no class. Defaults to 255.
    """

    def __init__(self, num_classes, ignore_index=255):
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Return ``results`` as they are.

        Raises:
            InputError: If the label map is not of the image's size, or a label is no class.
        """
        labels = results.get('gt_seg_map')
        if labels is None:
            return results
        path = results.get('seg_map_path')
        if labels.shape != tuple(results['ori_shape']):
            raise InputError(
                f'{path} is {labels.shape} pixels, its image {tuple(results["ori_shape"])}; they must be of one size'
            )
        wrong = np.unique(labels[(labels != self.ignore_index) & (labels >= self.num_classes)])
        if len(wrong):
            expected = f'0 to {self.num_classes - 1} or {self.ignore_index}'
            if results.get('reduce_zero_label'):
                expected += ', after reduce_zero_label took 1 off'
            raise InputError(
                f'{path} holds label {wrong[0]}, but there are {self.num_classes} classes: labels must be {expected}'
            )
        return results
