"""Digit scenes as an mmseg dataset. Configs that use it import this module with ``custom_imports``."""

from __future__ import annotations

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from .digit_scenes import CLASSES, PALETTE


@DATASETS.register_module()
class DigitScenesSegDataset(BaseSegDataset):
    """The label maps of digit scenes, with ten digits and two backgrounds as classes, in ADE20K's format.

    Args:
        **kwargs: The arguments of :class:`mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = dict(classes=CLASSES, palette=[list(color) for color in PALETTE])

    def __init__(self, **kwargs) -> None:
        super().__init__(img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, **kwargs)
