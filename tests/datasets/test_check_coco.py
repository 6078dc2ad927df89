import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmpelk.datasets.check_coco import _runs, check_coco
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

    def run(data, classes=('cat', 'dog'), **options):
        text = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / 'ann.json').write_text(text)
        check_coco(tmp_path / 'ann.json', tmp_path / 'images', classes, **options)

    return run


def test_a_good_file_passes(check):
    check(GOOD)
    check(GOOD, classes=('dog',))  # mmdet can train on fewer classes than the file has


def test_detectors_with_masks_need_segmentations(check):
    check(GOOD)
    with pytest.raises(InputError, match='annotation 1 has no segmentation, which LoadAnnotations with with_mask=True needs'):
        check(GOOD, needs_masks=True)
    square = [[0, 0, 9, 0, 9, 9, 0, 9]]
    check(spoilt(lambda d: [item.update(segmentation=square) for item in d['annotations']]), needs_masks=True)


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
        (spoilt(lambda d: d['annotations'][0].update(bbox=[0, 0, 5])), r'annotation 1: box \[0, 0, 5\] is not four numbers'),
        (spoilt(lambda d: d['annotations'][0].update(bbox=None)), 'annotation 1: box None is not four numbers'),
        (spoilt(lambda d: d['annotations'][0].update(bbox=[0, 0, float('nan'), 3])), 'annotation 1: box .* is not four numbers'),
        (
            spoilt(lambda d: d['annotations'][0].update(bbox=[9, 9, -5, 5])),
            r'annotation 1: box \[9, 9, -5, 5\] has a negative size',
        ),
        (spoilt(lambda d: d['annotations'][0].pop('area')), "an item has no 'area'"),
        (spoilt(lambda d: d['annotations'][0].update(area=-1)), 'annotation 1: area is -1; expected a number of at least 0'),
        (spoilt(lambda d: d['annotations'][0].update(iscrowd='yes')), "annotation 1: iscrowd is 'yes'"),
        (spoilt(lambda d: d['images'][0].update(width=0)), "image 'a.jpg' has size 0x30"),
        (spoilt(lambda d: d['images'].append(d['images'][0])), 'two images have the id 1'),
        (spoilt(lambda d: d['annotations'].append(d['annotations'][0])), 'two annotations have the id 1'),
        *(
            (
                spoilt(lambda d, mask=mask: d['annotations'][0].update(segmentation=mask)),
                f'annotation 1: its segmentation .*{message}',
            )
            for mask, message in (
                ([], 'has no polygon'),
                ([[0, 0, 5, 5, 0, 5, 3]], r'has the polygon \[0, 0, 5'),
                ([['a'] * 6], 'has the polygon'),
                (3, 'is 3; expected a list of polygons'),
                (dict(size=[40, 30], counts=[1200]), r'is a run-length mask of size \[40, 30\]; expected \[30, 40\]'),
                (dict(size=[30, 40], counts=[1199]), 'is a run-length mask whose runs do not add up to the 1200 pixels'),
                (dict(size=[30, 40], counts=[-1, 1201]), 'runs do not add up'),
                (dict(size=[30, 40], counts='@@'), 'runs do not add up'),
                (dict(size=[30, 40], counts='P'), 'runs do not add up'),
                (dict(size=[30, 40]), 'runs do not add up'),
            )
        ),
        (spoilt(lambda d: d['images'].append('a.jpg')), 'ann.json is not a COCO file: an item is malformed: '),
    ],
)
def test_the_message_names_the_file_and_the_item(check, data, message):
    with pytest.raises(InputError, match=message):
        check(data)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)), st.integers(1, 40))
@settings(max_examples=50)
def test_runs_are_decoded_as_by_pycocotools(mask, factor):
    coco = pytest.importorskip('pycocotools.mask')
    mask = np.kron(mask, np.ones((factor, 1), np.uint8))  # runs of up to 360 pixels
    counts = coco.encode(np.asfortranarray(mask))['counts'].decode()
    values = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel('F')])))  # where a run ends
    expected = np.diff([0, *values, mask.size]).tolist()
    assert _runs(counts) == expected


@pytest.mark.parametrize('change', [dict(bbox=[5, 5, 0, 3]), dict(area=0), dict(segmentation=[[1, 1, 5, 5]])], ids=str)
def test_what_mmdet_leaves_out_is_logged(check, change, monkeypatch):
    logged = []
    monkeypatch.setattr('mmpelk.datasets.check_coco.print_log', lambda text, *options: logged.append(text))
    data = copy.deepcopy(GOOD)
    data['annotations'][1].update(bbox=[5, 5, 3, 3], area=9)
    data['annotations'][0].update(change)
    check(data)
    assert len(logged) == 1 and 'mmdet leaves out 1 of 2 annotations' in logged[0] and 'annotation 1)' in logged[0]
