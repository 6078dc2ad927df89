"""Digit scenes as an mmseg dataset."""

from __future__ import annotations

from mmengine.registry import DATASETS

from .digit_scenes import CLASSES, PALETTE


@DATASETS.register_module()
def DigitScenesSegDataset(**kwargs):
    """An ``mmseg.datasets.BaseSegDataset`` with the classes of digit scenes; a function, so that mmpelk imports without mmseg.

    Args:
        **kwargs: As for BaseSegDataset.
    """
    from mmseg.datasets import BaseSegDataset

    metainfo = dict(classes=CLASSES, palette=[list(color) for color in PALETTE])
    return BaseSegDataset(img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, metainfo=metainfo, **kwargs)
