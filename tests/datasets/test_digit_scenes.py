import hashlib
import json

import cv2
import numpy as np
import pytest

from mmpelk.datasets import CLASSES, PALETTE, make_digit_scenes
from mmpelk.datasets.digit_scenes import _run_lengths, split_digits


def digest(root):
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return [(str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def test_layout_and_labels(digit_scenes):
    root = digit_scenes / 'data/digit_scenes'
    for split, count in (('training', 16), ('validation', 4)):
        images, maps = sorted((root / 'images' / split).iterdir()), sorted((root / 'annotations' / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in maps] and len(images) == count
        for image, labels in zip(images, maps, strict=True):
            assert cv2.imread(str(image)).shape == (128, 128, 3)
            assert set(np.unique(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED))) <= set(range(1, 13))
    assert len(CLASSES) == len(PALETTE) == len(set(PALETTE)) == 12
    assert 'CC BY' in (root / 'README.txt').read_text()


def test_same_seed_same_scenes(tmp_path):
    first, second, other = (make_digit_scenes(tmp_path / name, 3, 2, seed=seed) for name, seed in (('a', 1), ('b', 1), ('c', 2)))
    assert digest(first) == digest(second) != digest(other)
    before = digest(first)
    assert make_digit_scenes(first, 3, 2, seed=1) == first and digest(first) == before


def test_splits_share_no_digit():
    (train, _), (val, _) = split_digits(0)
    assert len(train) + len(val) == 1797
    # No index is in both splits, but a few of scikit-learn's digits are exact duplicates.
    shared = {image.tobytes() for image in train} & {image.tobytes() for image in val}
    assert len(shared) <= 3


def test_instances_agree_with_the_label_maps(digit_scenes):
    mask_utils = pytest.importorskip('pycocotools.mask', reason='comes with mmdet')
    root = digit_scenes / 'data/digit_scenes'
    coco = json.loads((root / 'instances_training.json').read_text())
    assert [category['name'] for category in coco['categories']] == list(CLASSES[:10])
    names = {image['id']: image['file_name'] for image in coco['images']}
    drawn = {}
    for instance in coco['annotations']:
        mask = mask_utils.decode(mask_utils.frPyObjects(instance['segmentation'], 128, 128)).astype(bool)
        left, top, width, height = instance['bbox']
        outside = mask.copy()
        outside[top : top + height, left : left + width] = False
        assert not outside.any() and mask.sum() == instance['area'] and mask[top].any() and mask[:, left].any()
        labels = drawn.setdefault(instance['image_id'], np.zeros((128, 128), int))
        assert not labels[mask].any()  # the digits do not overlap
        labels[mask] = instance['category_id']
    for image_id, labels in drawn.items():
        path = root / 'annotations/training' / names[image_id].replace('.jpg', '.png')
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(np.where(truth <= 10, truth, 0), labels)


@pytest.mark.parametrize('mask', [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(4, dtype=bool), ~np.eye(4, dtype=bool)])
def test_run_lengths(mask):
    code = _run_lengths(mask)
    values = np.arange(len(code['counts'])) % 2
    decoded = np.repeat(values, code['counts']).reshape(code['size'], order='F')
    assert np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_training=0), 'num_training must be at least 1, got 0'),
        (dict(num_validation=-1), 'num_validation must be at least 1, got -1'),
        (dict(size=32), 'between 64 and 256 pixels, got 32'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_digit_scenes(tmp_path / 'scenes', **options)
    assert not (tmp_path / 'scenes').exists()


def test_a_folder_with_other_contents_is_not_changed(tmp_path):
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='exists but was not made with'):
        make_digit_scenes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['precious.txt']


def test_an_error_leaves_no_unfinished_folder(tmp_path, monkeypatch):
    monkeypatch.setattr('mmpelk.datasets.digit_scenes._coco_instance', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_digit_scenes(tmp_path / 'scenes', 2, 1)
    assert list(tmp_path.iterdir()) == []
