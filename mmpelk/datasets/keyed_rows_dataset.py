"""Keyed rows as an mmseg dataset. Configs that use it import this module with ``custom_imports``."""

from __future__ import annotations

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from .keyed_rows import COLOR_PALETTE, COLORS


@DATASETS.register_module()
class KeyedRowsDataset(BaseSegDataset):
    """The label maps of keyed rows, with four colors as classes, in ADE20K's format.

    Args:
        **kwargs: The arguments of :class:`mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = dict(classes=COLORS, palette=[list(color) for color in COLOR_PALETTE])

    def __init__(self, **kwargs) -> None:
        super().__init__(img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, **kwargs)
