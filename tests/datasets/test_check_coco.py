import copy
import json

import pytest

from mmpelk.datasets.check_coco import check_coco
from mmpelk.utils.errors import InputError

GOOD = dict(
    images=[dict(id=1, file_name='a.jpg', width=40, height=30), dict(id=7, file_name='sub/b.jpg', width=40, height=30)],
    annotations=[
        dict(id=1, image_id=1, category_id=3, bbox=[0, 0, 40.5, 30], area=9, iscrowd=0),
        dict(id=2, image_id=1, category_id=90, bbox=[5, 5, 0, 0], area=0, iscrowd=1),
    ],
    categories=[dict(id=3, name='cat'), dict(id=90, name='dog')],
)


@pytest.fixture
def check(tmp_path):
    (tmp_path / 'images/sub').mkdir(parents=True)
    (tmp_path / 'images/a.jpg').touch()
    (tmp_path / 'images/sub/b.jpg').touch()

    def run(data, classes=('cat', 'dog')):
        text = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / 'ann.json').write_text(text)
        check_coco(tmp_path / 'ann.json', tmp_path / 'images', classes)

    return run


def test_a_good_file_passes(check):
    check(GOOD)
    check(GOOD, classes=('dog',))  # mmdet can train on fewer classes than the file has


def spoilt(change):
    data = copy.deepcopy(GOOD)
    change(data)
    return data


@pytest.mark.parametrize(
    'data, message',
    [
        ('{"images": [', 'ann.json is not valid JSON: .*'),
        ('[]', "ann.json is not a COCO file: it has no list 'images'"),
        (spoilt(lambda d: d.pop('annotations')), "has no list 'annotations'"),
        (
            spoilt(lambda d: d['categories'].pop()),
            "has no category 'dog' .1 of the config's 2 classes .*; its categories are cat",
        ),
        (spoilt(lambda d: d['images'][1].update(file_name='c.jpg')), r"lists image 'c.jpg' \(id 7\), which is not in .*images"),
        (spoilt(lambda d: d['annotations'][1].update(image_id=5)), 'annotation 2: image_id 5 is not among the images'),
        (spoilt(lambda d: d['annotations'][1].update(category_id=4)), 'annotation 2: category_id 4 is not among the categories'),
        (
            spoilt(lambda d: d['annotations'][0].update(bbox=[30, 0, 20, 10])),
            r"annotation 1: box \[30, 0, 20, 10\] is not inside its image 'a.jpg' of 40x30",
        ),
        (spoilt(lambda d: d['annotations'][0].update(bbox=[0, -9, 20, 10])), 'is not inside its image'),
        (spoilt(lambda d: d['annotations'][0].pop('bbox')), "ann.json is not a COCO file: an item has no 'bbox'"),
        (spoilt(lambda d: d['annotations'][0].update(bbox=[0, 0, 5])), 'ann.json is not a COCO file: an item is malformed: '),
        (spoilt(lambda d: d['annotations'][0].update(bbox=None)), 'ann.json is not a COCO file: an item is malformed: '),
        (spoilt(lambda d: d['images'].append('a.jpg')), 'ann.json is not a COCO file: an item is malformed: '),
    ],
)
def test_the_message_names_the_file_and_the_item(check, data, message):
    with pytest.raises(InputError, match=message):
        check(data)
