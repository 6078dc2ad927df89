"""A transform that rejects invalid label maps."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from mmpelk.utils.errors import InputError


@TRANSFORMS.register_module()
class CheckSegMap(BaseTransform):
    """Check a label map. In a pipeline, it comes right after LoadAnnotations. Without a label map, as in inference, it does nothing.

    A label outside the classes would otherwise crash the loss in training and be silently excluded from the IoU in testing.

    Args:
        num_classes (int): Number of classes. Labels are 0 to ``num_classes - 1``, after ``reduce_zero_label``.
        ignore_index (int): The label of pixels that are ignored. Defaults to 255.
    """

    def __init__(self, num_classes, ignore_index=255):
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Check the label map in ``results`` and return ``results`` unchanged.

        Raises:
            InputError: If the label map and the image differ in size, or a label is not a class.
        """
        labels = results.get('gt_seg_map')
        if labels is None:
            return results
        path = results.get('seg_map_path')
        if labels.shape != tuple(results['ori_shape']):
            raise InputError(
                f'{path} has {labels.shape} pixels, but its image has {tuple(results["ori_shape"])}; the sizes must be equal'
            )
        wrong = np.unique(labels[(labels != self.ignore_index) & (labels >= self.num_classes)])
        if len(wrong):
            expected = f'0 to {self.num_classes - 1} or {self.ignore_index}'
            if results.get('reduce_zero_label'):
                expected += ', after reduce_zero_label has subtracted 1'
            raise InputError(
                f'{path} contains label {wrong[0]}, but there are {self.num_classes} classes: labels must be {expected}'
            )
        return results
