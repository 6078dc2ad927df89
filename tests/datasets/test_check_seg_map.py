import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from mmpelk.datasets import CheckSegMap
from mmpelk.utils.errors import InputError

LABELS = np.array([[0, 1, 2], [2, 255, 0]], dtype=np.uint8)


def results(labels=LABELS, **options):
    return dict(gt_seg_map=labels, ori_shape=(2, 3), seg_map_path='maps/a.png', **options)


def test_valid_label_maps_pass_unchanged():
    for data in (results(), results(LABELS.astype(np.int64)), dict(img_path='a.jpg')):
        before = dict(data)
        assert CheckSegMap(num_classes=3)(data) is data and data == before
    CheckSegMap(num_classes=2, ignore_index=2)(results(np.minimum(LABELS, 2)))


def test_it_is_built_from_a_config():
    transform = TRANSFORMS.build(dict(type='CheckSegMap', num_classes=3))
    assert isinstance(transform, CheckSegMap) and transform.ignore_index == 255


@pytest.mark.parametrize(
    'labels, options, num_classes, message',
    [
        (LABELS, {}, 2, '^maps/a.png contains label 2, but there are 2 classes: labels must be 0 to 1 or 255$'),
        (
            LABELS,
            dict(reduce_zero_label=True),
            1,
            'contains label 1, .* 0 to 0 or 255, after reduce_zero_label has subtracted 1$',
        ),
        (LABELS.T, {}, 3, r'^maps/a.png has \(3, 2\) pixels, but its image has \(2, 3\); the sizes must be equal$'),
        (LABELS[..., None], {}, 3, r'has \(2, 3, 1\) pixels'),
    ],
)
def test_invalid_label_maps_are_rejected(labels, options, num_classes, message):
    with pytest.raises(InputError, match=message):
        CheckSegMap(num_classes)(results(labels, **options))


def test_another_ignored_label():
    with pytest.raises(InputError, match='contains label 255, but there are 3 classes: labels must be 0 to 2 or 7$'):
        CheckSegMap(num_classes=3, ignore_index=7)(results())
