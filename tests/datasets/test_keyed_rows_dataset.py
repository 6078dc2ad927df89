import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS

pytest.importorskip('mmseg')

from mmpelk.datasets import COLOR_PALETTE, COLORS, make_keyed_rows
from mmpelk.datasets.keyed_rows_dataset import KeyedRowsDataset


def test_a_folder_is_loaded(tmp_path):
    root = make_keyed_rows(tmp_path / 'rows', 1, 3, size=64, rows=3)
    dataset = KeyedRowsDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[dict(type='mmseg.LoadAnnotations'), dict(type='CheckSegMap', num_classes=4)],
    )
    assert DATASETS.get('KeyedRowsDataset') is KeyedRowsDataset
    assert len(dataset) == 3 and dataset.metainfo['classes'] == COLORS
    assert dataset.metainfo['palette'] == [list(color) for color in COLOR_PALETTE]
    for index in range(3):
        item = dataset.get_data_info(index)
        labels = dataset.pipeline(dict(item, ori_shape=(64, 64)))['gt_seg_map']
        stored = cv2.imread(item['seg_map_path'], cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, np.where(stored == 0, 255, stored - 1)) and 0 < (labels == 255).mean() < 1
