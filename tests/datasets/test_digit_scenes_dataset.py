import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS

pytest.importorskip('mmseg')

from mmpelk.datasets import CLASSES, PALETTE
from mmpelk.datasets.digit_scenes_dataset import DigitScenesSegDataset


def test_classes_and_palette():
    assert isinstance(DigitScenesSegDataset, type) and DATASETS.get('DigitScenesSegDataset') is DigitScenesSegDataset
    assert dict(classes=CLASSES, palette=[list(color) for color in PALETTE]) == DigitScenesSegDataset.METAINFO
    assert len(CLASSES) == len(PALETTE) == 12 and CLASSES[3] == '3' and CLASSES[10:] == ('temple', 'flower')


def test_a_folder_is_loaded(digit_scenes):
    root = digit_scenes / 'data/digit_scenes'
    dataset = DigitScenesSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[dict(type='mmseg.LoadAnnotations'), dict(type='CheckSegMap', num_classes=12)],
    )
    assert len(dataset) == 4 and dataset.metainfo['classes'] == CLASSES and dataset.metainfo['reduce_zero_label']
    for index in range(4):
        item = dataset.get_data_info(index)
        name = f'validation_{index:04d}'
        assert item['img_path'] == str(root / f'images/validation/{name}.jpg')
        assert item['seg_map_path'] == str(root / f'annotations/validation/{name}.png')
        labels = dataset.pipeline(dict(item, ori_shape=(128, 128)))['gt_seg_map']
        # In the files, 0 is unlabeled and 1 is the first class.
        assert np.array_equal(labels, cv2.imread(item['seg_map_path'], cv2.IMREAD_UNCHANGED) - 1) and labels.max() <= 11
