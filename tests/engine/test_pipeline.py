"""Data pipelines name the file that cannot be read, both in a data loader and on their own."""

import json

import cv2
import mmcv.transforms
import numpy as np
import pytest
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import init_default_scope

from mmpelk.engine.pipeline import NamingPipeline
from mmpelk.engine.runner import NamingRunner
from mmpelk.utils.errors import InputError


@pytest.fixture
def images(tmp_path):
    """Return a folder with an intact and a truncated image, and annotation files of two datasets, each with one of the images."""
    for name in ('first.png', 'second.png', 'broken.png'):
        cv2.imwrite(str(tmp_path / name), np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'broken.png').read_bytes()[:200])
    for name, files in (('whole', ['first.png', 'second.png']), ('damaged', ['first.png', 'broken.png'])):
        entries = [dict(img_path=file, label=index) for index, file in enumerate(files)]
        (tmp_path / f'{name}.json').write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    return tmp_path


def dataset(images, name):
    return dict(
        type=BaseDataset,
        ann_file=str(images / f'{name}.json'),
        data_prefix=dict(img_path=str(images)),
        pipeline=[dict(type='LoadImageFromFile', imdecode_backend='pillow')],
    )


def loader(dataset):
    init_default_scope('mmengine')
    sampler = dict(type='DefaultSampler', shuffle=False)
    settings = dict(dataset=dataset, batch_size=1, num_workers=0, sampler=sampler)
    return NamingRunner.build_dataloader(settings | dict(collate_fn=dict(type='pseudo_collate')))


WRAPPERS = {
    'plain': lambda images, name: dataset(images, name),
    'repeated': lambda images, name: dict(type='RepeatDataset', times=2, dataset=dataset(images, name)),
    'concatenated': lambda images, name: dict(type='ConcatDataset', datasets=[dataset(images, 'whole'), dataset(images, name)]),
    'nested': lambda images, name: dict(
        type='ConcatDataset',
        datasets=[
            dataset(images, 'whole'),
            dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset(images, name)])),
        ],
    ),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_datasets_in_wrappers_name_the_broken_file(images, wrapper):
    assert all(batch['img'][0].shape == (32, 32, 3) for batch in loader(WRAPPERS[wrapper](images, 'whole')))
    with pytest.raises(InputError, match=rf'^cannot read {images}/broken.png: '):
        list(loader(WRAPPERS[wrapper](images, 'damaged')))


@pytest.mark.parametrize(
    'error, named',
    [
        (OSError('image file is truncated'), True),
        (AssertionError('sizes differ'), True),
        (SyntaxError('broken PNG file'), True),
        (cv2.error('(-215) empty'), True),
        (KeyError('img'), False),
        (RuntimeError('CUDA'), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_reading_errors_name_files(error, named, images):
    def fail(data):
        raise error

    paths = dict(img_path=str(images / 'first.png'), seg_map_path=str(images / 'broken.png'))
    with pytest.raises(InputError if named else type(error)) as caught:
        NamingPipeline(Compose([fail]))(paths)
    if named:  # only the file that cannot be read
        assert str(caught.value) == f'cannot read {images}/broken.png: {error}'
        paths['seg_map_path'] = paths['img_path']
        with pytest.raises(InputError, match=f'first.png or {images}/first.png: '):
            NamingPipeline(Compose([fail]))(paths)


def test_an_empty_dataset():
    with pytest.raises(InputError, match='^the dataset is empty: no image in its folders has the expected suffix'):
        loader([])


def pipeline(**options):
    return NamingPipeline(Compose([lambda data: data | options]))


def test_deep_images_and_label_maps(tmp_path):
    """Pillow would clip gray images of 16 bits, and mmseg keeps 8 bits of labels."""
    for name, value in (('deep', 300), ('fits', 255)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((4, 4), value, np.uint16))
    deep, fits = str(tmp_path / 'deep.png'), str(tmp_path / 'fits.png')
    with pytest.raises(InputError, match=r'deep.png contains labels from 300 to 300; labels must be 0 to 255'):
        pipeline()(dict(seg_map_path=deep))
    assert pipeline(seen=1)(dict(seg_map_path=fits))['seen'] == 1
    loading = NamingPipeline(Compose([mmcv.transforms.LoadImageFromFile(imdecode_backend='pillow')]))
    with pytest.raises(InputError, match=r'deep.png has more than 8 bits per pixel \(mode I;16\); convert it to 8 bits'):
        loading(dict(img_path=deep))
    # OpenCV scales the values to 8 bits.
    assert NamingPipeline(Compose([mmcv.transforms.LoadImageFromFile()]))(dict(img_path=deep))['img'].max() == 300 // 256


def test_an_image_of_another_size_than_its_annotations(tmp_path):
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, np.zeros((4, 6), np.uint8))
    for height, width in ((4, 6), (6, 4)):  # EXIF data can rotate an image
        assert pipeline(seen=1)(dict(img_path=path, height=height, width=width))['seen'] == 1
    with pytest.raises(InputError, match='image.png is 6x4, but its annotations are for 6x5'):
        pipeline()(dict(img_path=path, height=5, width=6))


def test_a_value_error_names_only_a_broken_file(images):
    def fail(data):
        raise ValueError('too large')

    with pytest.raises(ValueError, match='^too large$'):
        NamingPipeline(Compose([fail]))(dict(img_path=str(images / 'first.png')))
    with pytest.raises(InputError, match=r'^cannot read .*broken.png: too large$'):
        NamingPipeline(Compose([fail]))(dict(img_path=str(images / 'broken.png')))
