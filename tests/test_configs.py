"""What every config must satisfy, without training it."""

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmpelk  # noqa: F401

UPERNET = {'t': (6, 0.4), 's': (12, 0.3), 'b': (12, 0.4), 'b101': (12, 0.4)}
ALL = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_model_builds_and_its_channels_agree(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    if cfg.default_scope == 'mmseg':
        assert list(backbone.channels) == list(cfg.model.decode_head.in_channels)
        assert cfg.model.auxiliary_head.in_channels == backbone.channels[2]
        assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == cfg.num_classes
    else:
        assert list(backbone.channels) == list(cfg.model.neck.in_channels)
    assert cfg.model.backbone.get('init_cfg') is None  # from scratch unless --pretrained names a checkpoint


@pytest.mark.parametrize('path', sorted((CONFIGS / '_base_/models').glob('*.py')), ids=lambda path: path.stem)
def test_each_model_base_builds_alone(path):
    init_default_scope('mmdet' if 'rcnn' in path.stem else 'mmseg')
    MODELS.build(Config.fromfile(path).model)


@pytest.mark.parametrize('name', UPERNET)
def test_the_ade20k_recipe_of_the_paper(name):
    cfg = Config.fromfile(CONFIGS / f'upernet_pelk_{name}_ade20k.py')
    num_layers, drop_path = UPERNET[name]
    assert cfg.model.backbone.drop_path_rate == drop_path and cfg.model.backbone.layer_scale_init_value == 1.0
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=0.9, decay_type='stage_wise', num_layers=num_layers)
    assert cfg.train_cfg.max_iters == 160000 and cfg.param_scheduler[0].end == 1500 and cfg.param_scheduler[1].power == 1.0
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    kernels = MODELS.get('PeLK')(arch=dict(depths=(1,) * 4, channels=(8,) * 4), **kernel_options(cfg)).grids
    assert [grid.kernel_size for grid in kernels] == ([101, 69, 67, 13] if name == 'b101' else [51, 49, 47, 13])


def kernel_options(cfg):
    return {key: value for key, value in cfg.model.backbone.items() if key in ('kernel_sizes', 'center_size')}


def test_layer_decay_puts_pelk_into_convnexts_groups():
    from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor

    cfg = Config.fromfile(CONFIGS / 'demo/upernet_pelk_atto_digits.py')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    paramwise = dict(decay_rate=0.5, decay_type='stage_wise', num_layers=6)
    optimizer = LearningRateDecayOptimizerConstructor(wrapper, paramwise)(model).optimizer
    rate, decay = {}, {}
    for group in optimizer.param_groups:
        for name in group['param_names']:
            rate[name], decay[name] = group['lr'], group['weight_decay']
    assert set(rate) == {name for name, _ in model.named_parameters()}
    for stage in range(4):
        block = f'backbone.stages.{stage}.0.'
        assert rate[block + 'token_mixer.pos_embed.bias'] == rate[block + 'token_mixer.large.weight'] == 0.5 ** (6 - stage)
        assert decay[block + 'token_mixer.large.weight'] == 0.05
        for part in (
            'gamma',
            'norm.weight',
            'token_mixer.large_norm.weight',
            'pointwise_conv1.bias',
            'token_mixer.pos_embed.bias',
        ):
            assert decay[block + part] == 0
    assert rate['backbone.downsample_layers.0.0.weight'] == 0.5**7 and rate['decode_head.conv_seg.weight'] == 1
