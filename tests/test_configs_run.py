"""Train every config for one iteration with tools/train.py, with a small model on small data."""

import re
import runpy
import sys

import pytest
from conftest import CONFIGS, TOOLS
from mmengine.config import Config

WIDTH = 20
SMALL = dict(
    PeLK=dict(depths=(1, 1, 1, 1), channels=(16,) * 4),
    ConvNeXt=dict(depths=(1, 1, 1, 1), channels=(WIDTH,) * 4),
    SwinTransformer=dict(embed_dims=WIDTH, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    RepLKNet=dict(large_kernel_sizes=(31, 29, 27, 13), layers=(1,) * 4, channels=(WIDTH,) * 4, small_kernel=5, dw_ratio=1),
)
ALL = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


def shrink(cfg):
    """Make a config's model small and reduce its training to one iteration of two images."""
    kind = cfg.model.backbone.type.split('.')[-1]
    channels = [WIDTH * 2**i for i in range(4)] if kind == 'SwinTransformer' else [WIDTH] * 4
    if kind == 'GrownBackbone':
        channels = [WIDTH + 4 * i for i in range(4)]  # adjacent kernels with the same number of channels would be one stage
        cfg.model.backbone.backbone.arch = dict(depths=(1, 1, 1, 1), channels=channels)
        cfg.model.backbone.pop('init_cfg', None)  # the address of a checkpoint
    else:
        cfg.model.backbone.arch = SMALL[kind]
    if kind == 'PeLK':
        channels = [int(16 * cfg.model.backbone.get('width_factor', 1.3))] * 4
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.update(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    cfg.total_batch_size = 2
    cfg.fine_tuning = False  # there is no checkpoint to start from
    if cfg.default_scope == 'mmpretrain':
        cfg.model.head.in_channels = channels[-1]
        cfg.train_cfg.max_epochs = 1
        cfg.train_dataloader.dataset.indices = 2
        return
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    if cfg.default_scope == 'mmseg':
        cfg.model.decode_head.update(in_channels=channels, channels=16)
        if 'auxiliary_head' in cfg.model:
            cfg.model.auxiliary_head.update(in_channels=channels[2], channels=16)
        cfg.model.data_preprocessor.size = (128, 128)
        if cfg.train_dataloader.dataset.type != 'KeyedRowsDataset':
            cfg.train_dataloader.dataset.data_root = 'data/digit_scenes'  # the digit scenes have ADE20K's layout
        for step in cfg.train_dataloader.dataset.pipeline:
            step.update(dict(RandomResize=dict(scale=(128, 128)), RandomCrop=dict(crop_size=(128, 128))).get(step.type, {}))
        return
    if cfg.train_dataloader.dataset.pipeline[3].type == 'RandomChoice':
        choices = cfg.train_dataloader.dataset.pipeline[3].transforms
        choices[0][0].scales = choices[1][0].scales = choices[1][2].scales = [(64, 400), (32, 400)]
    cfg.model.neck.update(in_channels=channels, out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.model.train_cfg.rpn_proposal.max_per_img = 40
    heads = cfg.model.roi_head
    for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
        extractor.out_channels = 16
    for head in heads.bbox_head:
        head.update(in_channels=16, conv_out_channels=16, fc_out_channels=16)
    heads.mask_head.update(in_channels=16, conv_out_channels=16)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    from mmpelk.datasets import make_digits

    home = tmp_path_factory.mktemp('digits_cls')
    make_digits(home / 'data/digits', size=64, copies=1)
    return home


@pytest.fixture(scope='session')
def keyed_rows(tmp_path_factory):
    from mmpelk.datasets import make_keyed_rows

    home = tmp_path_factory.mktemp('keyed_rows')
    make_keyed_rows(home / 'data/keyed_rows', 8, 4)
    return home


@pytest.fixture
def home(request, path):
    """Return a folder with the data that the config reads."""
    if 'rcnn' in path.name:
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    names = dict(
        keyed_rows='keyed_rows', digits_cls='digits', digits='digit_scenes', coco='coco', in1k='imagenet', ade20k='digit_scenes'
    )
    return request.getfixturevalue(next(fixture for part, fixture in names.items() if part in path.name))


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_one_iteration(path, home, tmp_path, monkeypatch):
    cfg = Config.fromfile(path)
    shrink(cfg)
    config = tmp_path / path.name
    cfg.dump(config)
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--work-dir', str(tmp_path / 'work')])
    runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert re.search(r'\(train\).* loss: \d+\.\d+', log.read_text())
