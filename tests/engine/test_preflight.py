"""Checks of data and checkpoints before a run."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from small_models import Part, in_wrappers, save_part
from torch import nn

from mmpelk.engine.preflight import check_channels, check_checkpoint, check_data, check_training_state
from mmpelk.engine.pretrained import prepare_pretrained
from mmpelk.sparsity.hooks import DynamicSparsityHook
from mmpelk.utils.errors import InputError


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'not read here')


@pytest.fixture
def data(tmp_path):
    """Return a folder with two datasets, 'a' and 'b', each with one image, a label map, and a COCO file."""
    for name in 'ab':
        write_image(tmp_path / name / 'images/x.jpg')
        write_image(tmp_path / name / 'labels/x.png')
        images = [dict(id=1, file_name='x.jpg', width=8, height=8)]
        categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
        content = dict(images=images, categories=categories, annotations=[])
        (tmp_path / name / 'coco.json').write_text(json.dumps(content))
    return tmp_path


def segmentation(root):
    return dict(type='BaseSegDataset', data_root=str(root), data_prefix=dict(img_path='images', seg_map_path='labels'))


def detection(root, **options):
    dataset = dict(type='CocoDataset', data_root=str(root), ann_file='coco.json', data_prefix=dict(img='images/'))
    return dict(dataset, metainfo=dict(classes=('cat', 'dog'))) | options


def repeated(dataset):
    return dict(type='RepeatDataset', times=2, dataset=dataset)


def concatenated(*datasets):
    return dict(type='ConcatDataset', datasets=list(datasets))


def check(dataset, classes=2, split='train', splits=('train', 'val', 'test')):
    model = dict(
        neck=dict(out_channels=4),
        rpn_head=dict(num_classes=1),
        roi_head=dict(bbox_head=[dict(num_classes=2), dict(num_classes=classes)]),
    )
    check_data(Config(dict(model=model, default_scope='mmdet', **{f'{split}_dataloader': dict(dataset=dataset)})), splits)


# The dataset of 'b' inside wrappers, and its dotted key in the config.
WRAPPERS = {
    'plain': (lambda data, make: make(data / 'b'), ''),
    'repeated': (lambda data, make: repeated(make(data / 'b')), '.dataset'),
    'concatenated': (lambda data, make: concatenated(make(data / 'a'), make(data / 'b')), '.datasets.1'),
    'nested': (
        lambda data, make: repeated(concatenated(make(data / 'a'), repeated(make(data / 'b')))),
        '.dataset.datasets.1.dataset',
    ),
}


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('name', WRAPPERS)
def test_folders_of_wrapped_datasets(name, split, data):
    wrap, place = WRAPPERS[name]
    check(wrap(data, segmentation), split=split)
    key = f'{split}_dataloader.dataset{place}'
    (data / 'b/labels/x.png').unlink()
    message = (
        rf'data folder {data}/b/labels is empty \({key}.data_prefix.seg_map_path\); put the data there or set {key}.data_root'
    )
    with pytest.raises(InputError, match=message):
        check(wrap(data, segmentation), split=split)
    (data / 'b/labels').rmdir()
    with pytest.raises(InputError, match=rf'data folder {data}/b/labels does not exist \({key}.data_prefix.seg_map_path\)'):
        check(wrap(data, segmentation), split=split)
    check(wrap(data, segmentation), split=split, splits=tuple({'train', 'val', 'test'} - {split}))


@pytest.mark.parametrize('name', WRAPPERS)
def test_annotations_of_wrapped_datasets(name, data):
    wrap, place = WRAPPERS[name]
    check(wrap(data, detection))
    with pytest.raises(InputError, match='model.roi_head.bbox_head.1.num_classes is 3, but the dataset has 2 classes'):
        check(wrap(data, detection), classes=3)
    path = data / 'b/coco.json'
    path.write_text(path.read_text().replace('dog', 'cow'))
    with pytest.raises(InputError, match=f"{path} has no category 'dog'"):
        check(wrap(data, detection))
    path.unlink()
    with pytest.raises(InputError, match=rf'annotation file {path} does not exist \(train_dataloader.dataset{place}.ann_file\)'):
        check(wrap(data, detection))


def test_class_names_of_coco(data):
    """Without metainfo, the dataset has COCO's 80 classes."""
    pytest.importorskip('mmdet.datasets')
    dataset = detection(data / 'a')
    del dataset['metainfo']
    with pytest.raises(InputError, match='num_classes is 2, but the dataset has 80 classes'):
        check(dataset)


def test_folders_of_classification_datasets(data):
    """mmpretrain's datasets name one folder, or a split of ImageNet."""
    check(dict(type='CustomDataset', data_root=str(data), data_prefix='a/images'))
    with pytest.raises(InputError, match=r'c/images does not exist \(train_dataloader.dataset.data_prefix.img_path\)'):
        check(dict(type='CustomDataset', data_root=str(data), data_prefix='c/images'))
    check(dict(type='ImageNet', data_root=str(data / 'a'), split='images'))
    with pytest.raises(InputError, match='a/train does not exist'):
        check(dict(type='ImageNet', data_root=str(data / 'a'), split='train'))


def test_data_that_is_not_checked(data):
    check(dict(type='BaseSegDataset', data_root='s3://bucket/data', data_prefix=dict(img_path='images')))
    check_data(Config(dict(model={}, val_dataloader=None)), ('train', 'val'))


@pytest.fixture
def saved(tmp_path, safe_io):
    return save_part(tmp_path)


def test_check_checkpoint(saved):
    checkpoint = check_checkpoint(saved, Part(), prefix='backbone.')
    assert len(checkpoint['state_dict']) == 4
    check_checkpoint(saved, nn.ModuleDict(dict(backbone=Part())))
    with pytest.raises(InputError, match='saved.pth belongs to another model'):
        check_checkpoint(saved, nn.ModuleDict(dict(backbone=Part(), head=nn.Linear(2, 2))))
    check_checkpoint(saved, nn.ModuleDict(dict(backbone=Part(), head=nn.Linear(2, 2))), strict=False)
    with pytest.raises(InputError, match="no weights under prefix 'neck.'"):
        check_checkpoint(saved, Part(), prefix='neck.')
    with pytest.raises(InputError, match='none.pth does not exist'):
        check_checkpoint(saved.with_name('none.pth'), Part())


def test_models_in_wrappers(saved):
    check_checkpoint(saved, in_wrappers(nn.ModuleDict(dict(backbone=Part()))))
    part = Part(dict(type='Pretrained', checkpoint=str(saved), prefix='neck.'))
    with pytest.raises(InputError, match="no weights under prefix 'neck.'"):
        prepare_pretrained(in_wrappers(nn.Sequential(part)), saved.parent)


def a_runner(**parts):
    return SimpleNamespace(**{**dict(hooks=[], model=nn.Identity(), param_schedulers=None), **parts})


@pytest.mark.parametrize(
    'saved, expected, message',
    [
        ([{}, {}], [dict(type='LinearLR'), dict(type='PolyLR')], ''),
        ([{}], dict(type='PolyLR'), ''),
        (dict(a=[{}], b=[{}]), dict(a=dict(type='PolyLR'), b=[dict(type='PolyLR')]), ''),
        (None, None, ''),
        ([{}], None, ''),
        ([{}], [], ''),
        (None, dict(type='PolyLR'), '0 of the 1 schedules'),
        ([], [dict(type='LinearLR'), dict(type='PolyLR')], '0 of the 2 schedules'),
        ({}, [dict(type='PolyLR')], '0 of the 1 schedules'),
        ([{}] * 3, [dict(type='LinearLR'), dict(type='PolyLR')], '3 of the 2 schedules'),
        (dict(a=[{}]), dict(a=dict(type='PolyLR'), b=[dict(type='PolyLR')]), '1 of the 2 schedules'),
    ],
)
def test_the_schedules_of_a_run(saved, expected, message):
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_training_state(dict(param_schedulers=saved), 'x.pth', a_runner(param_schedulers=expected))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda average: average, ''),
        (lambda average: {}, r'x.pth \(ema_state_dict\) belongs to another model: 0 of 2 tensors fit, 2 are missing'),
        (lambda average: {'module.weight': average['module.weight']}, '1 are missing'),
        (lambda average: average | {'module.weight': 1}, '1 are missing'),
        (lambda average: [average], 'ema_state_dict is a list; expected a dict'),
        (lambda average: average | {'module.bias': torch.zeros(7)}, '1 have another shape'),
    ],
)
def test_the_average_of_a_run(change, message):
    model = nn.Linear(2, 3)
    average = {f'module.{name}': value for name, value in model.state_dict().items()}
    checkpoint = dict(ema_state_dict=change({'steps': torch.tensor(4)} | average))
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_training_state(checkpoint, 'x.pth', a_runner(hooks=[EMAHook()], model=model))
    check_training_state(checkpoint, 'x.pth', a_runner(model=model))
    check_training_state({}, 'x.pth', a_runner(hooks=[EMAHook()], model=model))  # the run then had no average


def test_the_masks_of_a_run():
    """The sparsity hooks of the runner check the model inside the wrappers."""
    calls = []

    class Hook(DynamicSparsityHook):
        def __init__(self):
            pass

        def check(self, checkpoint, model, path):
            calls.append((checkpoint, model, path))

    model = Part()
    check_training_state({'sparsity': {}}, 'x.pth', a_runner(hooks=[object(), Hook()], model=in_wrappers(model)))
    assert calls == [({'sparsity': {}}, model, 'x.pth')]


@pytest.mark.parametrize(
    'parts, message',
    [
        (dict(neck=dict(type='FPN', in_channels=[8, 16, 32])), ''),
        (dict(neck=dict(type='FPN', in_channels=(8, 16, 32)), head=dict(in_channels=256)), ''),
        (
            dict(neck=dict(type='FPN', in_channels=[8, 16])),
            r'model.neck.in_channels is \[8, 16\], but .* have \[8, 16, 32\] channels',
        ),
        (dict(decode_head=dict(in_channels=[8, 32], in_index=[0, 2])), ''),
        (
            dict(decode_head=dict(in_channels=[8, 16], in_index=[0, 2])),
            r'model.decode_head.in_channels is .* have \[8, 32\] channels',
        ),
        (
            dict(decode_head=dict(in_channels=[8, 8], in_index=[0, 3])),
            r'decode_head.in_index is \[0, 3\], but the backbone returns 3 maps',
        ),
        (
            dict(auxiliary_head=[dict(in_channels=32), dict(in_channels=8, in_index=1)]),
            r'auxiliary_head.1.in_channels is 8, but .* 16',
        ),
        (dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=32)), ''),
        (
            dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=31)),
            'model.head.in_channels is 31, but .* 32 channels',
        ),
        (dict(neck=dict(type='Feature2Pyramid'), decode_head=dict(in_channels=5)), ''),
        (dict(head=None, decode_head=dict(num_classes=3)), ''),
    ],
)
def test_the_channels_of_heads_and_necks(parts, message):
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_channels(ConfigDict(parts), [8, 16, 32])
