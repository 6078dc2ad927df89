"""Build and check every config, without training it."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope

from mmpelk.analysis.complexity import run_detector

# The number of layers of the learning rate decay, and the drop path rate, from the paper's recipes.
UPERNET = {'t': (6, 0.4), 's': (12, 0.3), 'b': (12, 0.4), 'b101': (12, 0.4)}
# The same two numbers, and the rate of the learning rate decay.
CASCADE = {'t': (6, 0.4, 0.7), 's': (12, 0.6, 0.7), 'b': (12, 0.7, 0.8), 'b101': (12, 0.7, 0.8)}
ALL = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


def enter_scope(scope):
    """Make a framework's registry the default, or skip the test if the framework cannot be imported."""
    if scope == 'mmdet':
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    init_default_scope(scope)


def forward_on_meta(cfg):
    """Build a config's model at full size and run its backbone, neck, and all heads on the meta device.

    Returns:
        The model, and the shapes of the outputs of a segmentor's or classifier's heads.
    """
    # OpenMMLab's backbones call Tensor.item() to compute drop path rates, which the meta device does not support.
    with torch.device('meta' if cfg.model.backbone.type == 'PeLK' else 'cpu'):
        model = MODELS.build(cfg.model)
    model.to('meta').eval()
    size = 384 if cfg.model.backbone.get('img_size') == 384 else 224
    images = torch.empty(1, 3, size, size, device='meta')
    with torch.no_grad():
        if cfg.default_scope == 'mmdet':
            run_detector(model, images)
            return model, []
        features = model.extract_feat(images)
        names = ('decode_head', 'auxiliary_head', 'head')
        return model, [tuple(getattr(model, name)(features).shape) for name in names if hasattr(model, name)]


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_full_size_model_runs_and_its_channels_agree(path):
    cfg = Config.fromfile(path)
    enter_scope(cfg.default_scope)
    model, shapes = forward_on_meta(cfg)
    if cfg.default_scope == 'mmseg':
        assert shapes == [(1, cfg.num_classes, 56, 56), (1, cfg.num_classes, 14, 14)][: 1 + ('auxiliary_head' in cfg.model)]
    elif cfg.default_scope == 'mmpretrain':
        assert shapes == [(1, cfg.model.head.num_classes)] and model.head.num_classes == cfg.model.data_preprocessor.num_classes
    backbone = cfg.model.backbone
    assert (backbone.get('init_cfg') is None) == ('grown' not in path.parts)  # otherwise only --pretrained loads weights
    if backbone.type == 'PeLK':
        assert model.backbone.out_indices == ((3,) if cfg.default_scope == 'mmpretrain' else (0, 1, 2, 3))


@pytest.mark.parametrize('path', sorted((CONFIGS / '_base_/models').glob('*.py')), ids=lambda path: path.stem)
def test_model_base_builds_by_itself(path):
    enter_scope('mmdet' if 'rcnn' in path.stem else 'mmpretrain' if 'cls' in path.stem else 'mmseg')
    with torch.device('meta'):
        MODELS.build(Config.fromfile(path).model)


@pytest.mark.parametrize('name', UPERNET)
def test_ade20k_configs_follow_the_paper(name):
    cfg = Config.fromfile(CONFIGS / f'upernet_pelk_{name}_ade20k.py')
    num_layers, drop_path = UPERNET[name]
    assert cfg.model.backbone.drop_path_rate == drop_path and cfg.model.backbone.layer_scale_init_value == 1.0
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=0.9, decay_type='stage_wise', num_layers=num_layers)
    assert cfg.train_cfg.max_iters == 160000 and cfg.param_scheduler[0].end == 1500 and cfg.param_scheduler[1].power == 1.0
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == cfg.total_batch_size == 16
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert kernel_sizes(cfg) == ([101, 69, 67, 13] if name == 'b101' else [51, 49, 47, 13])


@pytest.mark.parametrize('epochs', [36, 12])
@pytest.mark.parametrize('name', CASCADE)
def test_coco_configs_follow_the_paper(name, epochs):
    suffix = '' if epochs == 36 else '_1x'
    cfg = Config.fromfile(CONFIGS / f'cascade_mask_rcnn_pelk_{name}{suffix}_coco.py')
    num_layers, drop_path, decay_rate = CASCADE[name]
    assert cfg.model.backbone.drop_path_rate == drop_path and cfg.model.backbone.layer_scale_init_value == 1.0
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=decay_rate, decay_type='layer_wise', num_layers=num_layers)
    assert cfg.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
    steps = cfg.param_scheduler[1]
    assert steps.end == epochs and steps.milestones == ([27, 33] if epochs == 36 else [8, 11])
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == cfg.total_batch_size == 16
    for head in cfg.model.roi_head.bbox_head:
        assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
        assert head.norm_cfg.type == 'SyncBN' and head.loss_bbox.type == 'GIoULoss'
    assert kernel_sizes(cfg) == ([101, 69, 67, 13] if name == 'b101' else [51, 49, 47, 13])


GROWN = sorted((CONFIGS / 'grown').glob('*.py'))


@pytest.mark.parametrize('path', GROWN, ids=lambda path: path.stem)
def test_grown_configs_are_baselines_with_larger_kernels_and_a_public_checkpoint(path):
    cfg = Config.fromfile(path)
    name = re.sub('dinov3_|v2|_51|_101', '', path.stem)
    baseline = Config.fromfile(CONFIGS / f'baselines/{name}.py')
    backbone = cfg.model.pop('backbone')
    inner = baseline.model.pop('backbone')
    if 'v2' in path.stem:
        inner.update(use_grn=True, layer_scale_init_value=0.0)
    assert backbone.type == 'GrownBackbone' and backbone.backbone == inner
    assert backbone.kernel_sizes == ((101, 69, 67, 13) if '_101_' in path.stem else (51, 49, 47, 13))
    for key in ('checkpoint', 'model'):
        assert cfg.pop(key) == baseline.get(key, backbone.init_cfg.checkpoint)
        baseline.pop(key, None)
    assert cfg.to_dict() == baseline.to_dict()
    if 'dinov3' not in path.stem:  # no metafile has DINOv3
        folders = [Path(find_spec(package).origin).parent / '.mim/configs' for package in ('mmseg', 'mmpretrain')]
        files = [f for g in ('convnext*/*.*', '_base_/models/*convnext*.*') for folder in folders for f in folder.glob(g)]
        found = [file for file in files if Path(backbone.init_cfg.checkpoint).name in file.read_text()]
        assert found and ('v2' in path.stem) == ('convnext_v2' in str(found[0]))
        size = dict(t='tiny', s='small', b='base')[re.search('convnext(?:v2)?_([tsb])_', path.stem)[1]]
        assert size in Path(backbone.init_cfg.checkpoint).name and inner.arch == size
    else:
        assert (
            f'convnext_{inner.arch}.dinov3_lvd1689m/' in backbone.init_cfg.checkpoint and backbone.init_cfg.get('prefix') is None
        )


def test_there_is_a_grown_config_for_every_model():
    seg = [
        *(f'convnext_{size}' for size in 'tsb'),
        *(f'{kind}_{size}' for kind in ('convnextv2', 'dinov3_convnext') for size in 'tb'),
    ]
    names = [f'upernet_{model}_{k}_ade20k' for model in seg for k in (51, 101)]
    names += [f'cascade_mask_rcnn_convnext_{size}_{k}_coco' for size in 'ts' for k in (51, 101)]
    assert sorted(path.stem for path in GROWN) == sorted(names)


def kernel_sizes(cfg):
    """Return the kernel sizes of a config's backbone, including PeLK's defaults."""
    options = {key: value for key, value in cfg.model.backbone.items() if key in ('kernel_sizes', 'center_size')}
    backbone = MODELS.get('PeLK')(arch=dict(depths=(1,) * 4, channels=(8,) * 4), **options)
    return [grid.kernel_size for grid in backbone.grids]


@pytest.mark.parametrize('epochs', [300, 120])
@pytest.mark.parametrize('name', ['t', 's', 'b', 'b101', 'b_384', 'b101_384'])
def test_imagenet_configs_follow_the_paper(name, epochs):
    suffix = '' if epochs == 300 else '_120e'
    if name + suffix == 'b101_120e':
        pytest.skip('no table needs it')
    size = '_384' if '384' in name else ''
    cfg = Config.fromfile(CONFIGS / f'pelk_{name.removesuffix("_384")}_in1k{size}{suffix}.py')
    backbone = cfg.model.backbone
    assert (
        backbone.drop_path_rate == dict(t=0.1, s=0.4).get(name, 0.5) and 'layer_scale_init_value' not in backbone
    )  # default: 1e-6
    assert backbone.arch == dict(t='tiny', s='small').get(name, 'base')
    assert backbone.get('kernel_sizes') == ((101, 69, 67, 13) if '101' in name else None)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResizedCrop'].scale == (384 if size else 224)
    randaugment = steps['RandAugment']
    assert (randaugment.policies, randaugment.magnitude_level, randaugment.magnitude_std) == ('timm_increasing', 9, 0.5)
    assert steps['RandomErasing'].erase_prob == 0.25
    assert cfg.optim_wrapper.type == 'OptimWrapper'  # float32, as in ConvNeXt and SLaK
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 4e-3, 0.05)
    assert cfg.total_batch_size == 4096 and 4096 % (8 * cfg.train_dataloader.batch_size) == 0
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin == 20 and cosine.end == cfg.train_cfg.max_epochs == epochs and cosine.eta_min == 1e-6
    ema, sparsity = cfg.custom_hooks
    assert (ema.type, ema.momentum, ema.update_buffers) == ('EMAHook', 1e-4, True)
    assert (sparsity.interval, sparsity.rate) == ((2000, 0.5) if name == 't' else (100, 0.3)) and sparsity.sparsity == 0.4
    assert cfg.val_evaluator.topk == (1, 5)


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_shared_statistics_averages_and_batch_sizes(path):
    """BatchNorm's statistics are synchronized across GPUs and averaged by EMA, and gradients accumulate to the recipe's batch size."""
    cfg = Config.fromfile(path)
    assert cfg.sync_bn == 'torch'
    assert all(hook.update_buffers for hook in cfg.get('custom_hooks', ()) if hook.type == 'EMAHook')
    if path.parent.name == 'demo':
        return
    expected = 4096 if cfg.default_scope == 'mmpretrain' else 16
    if cfg.get('fine_tuning'):
        expected = 512 if path.stem.startswith(('pelk', 'slak', 'convnext')) else 1024
    assert cfg.total_batch_size == expected


@pytest.mark.parametrize('form, kernel', [('dense', (51, 51)), ('stripe', (51, 5))])
@pytest.mark.parametrize('sparse', [True, False])
def test_table_1_follows_slak(form, kernel, sparse):
    """Models without sparsity have ConvNeXt's widths. On ADE20K, SLaK's recipe for 80k iterations differs from that for 160k."""
    suffix = '_sparse' if sparse else ''
    widths = [124, 249, 499, 998] if sparse else [96, 192, 384, 768]
    for name, scope in ((f'table1_{form}{suffix}_in1k_120e', 'mmpretrain'), (f'table1_{form}{suffix}_ade20k_80k', 'mmseg')):
        cfg = Config.fromfile(CONFIGS / f'ablations/{name}.py')
        init_default_scope(scope)
        with torch.device('meta'):
            backbone = MODELS.build(cfg.model.backbone)
        assert list(backbone.channels) == widths
        mixer = backbone.stages[0][0].token_mixer
        large = mixer.large.vertical if form == 'stripe' else mixer.large
        assert tuple(large.weight.shape) == (widths[0], 1, *kernel) and tuple(mixer.small.weight.shape[2:]) == (5, 5)
        if scope == 'mmpretrain':
            assert ('DynamicSparsityHook' in [hook.type for hook in cfg.custom_hooks]) == sparse
            continue
        assert cfg.model.decode_head.in_channels == widths
        assert cfg.model.backbone.drop_path_rate == 0.1
        assert cfg.optim_wrapper == dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        )
        warm_up, poly = cfg.param_scheduler
        assert (warm_up.start_factor, warm_up.end) == (1e-6, 800)
        assert (poly.begin, poly.end, poly.power, poly.eta_min) == (800, 80000, 1.0, 0.0)
        assert cfg.train_cfg.max_iters == 80000


@pytest.mark.parametrize('number', range(1, 7))
def test_table_5_has_the_widths_of_convnext(number):
    cfg = Config.fromfile(CONFIGS / f'ablations/table5_{number}_in1k_120e.py')
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    assert backbone.channels == (96, 192, 384, 768) and [grid.kernel_size for grid in backbone.grids] == [33, 33, 33, 13]
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']


@pytest.mark.parametrize('form', ['dense', 'stripe'])
@pytest.mark.parametrize('size, sizes', [(7, [7] * 4), (21, [21, 19, 17, 13]), (31, [31, 29, 27, 13]), (41, [41, 39, 37, 13])])
def test_figure_2_varies_the_kernels_of_table_1_alone(form, size, sizes):
    point = Config.fromfile(CONFIGS / f'ablations/fig2_{form}_{size}_in1k_120e.py')
    assert list(point.model.backbone.pop('kernel_sizes')) == sizes
    assert point.to_dict() == Config.fromfile(CONFIGS / f'ablations/table1_{form}_in1k_120e.py').to_dict()


def test_the_supplements_ablation_removes_the_small_branch_alone():
    with torch.device('meta'):
        models = [
            MODELS.build(Config.fromfile(CONFIGS / f'{name}.py').model.backbone)
            for name in ('pelk_t_in1k_120e', 'ablations/no_reparam_in1k_120e')
        ]
    names = [{name for name, _ in model.named_parameters()} for model in models]
    assert names[1] < names[0] and all('.small' in name for name in names[0] - names[1])


# Drop path rate, first and last learning rate, and epochs of warm-up of fine-tuning at 384 px with the recipes of ConvNeXt, RepLKNet,
# and Swin.
FINE_TUNING = {
    'pelk_b_in1k_384_finetune': (0.8, 5e-5, 1e-6, 0),
    'pelk_b101_in1k_384_finetune': (0.8, 5e-5, 1e-6, 0),
    'baselines/slak_b_in1k_384': (0.8, 5e-5, 1e-6, 0),
    'baselines/convnext_b_in1k_384': (0.8, 5e-5, 1e-6, 0),
    'baselines/replknet_b_in1k_384': (0.8, 4e-4, 1e-6, 1),
    'baselines/swin_b_in1k_384': (0.5, 4e-5, 4e-7, 5),
}


@pytest.mark.parametrize('name', FINE_TUNING)
def test_fine_tuning_follows_the_ancestors(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    drop_path, lr, last_lr, warm_up = FINE_TUNING[name]
    assert cfg.fine_tuning and cfg.model.backbone.drop_path_rate == drop_path
    assert (cfg.model.train_cfg is None) == ('swin' not in name) and cfg.model.head.loss.label_smooth_val == 0.1
    optimizer = cfg.optim_wrapper.optimizer
    assert (cfg.optim_wrapper.type, optimizer.type, optimizer.lr) == ('OptimWrapper', 'AdamW', lr)
    assert optimizer.weight_decay == 1e-8
    cosine = cfg.param_scheduler[-1]
    assert cosine.get('begin', 0) == warm_up and cosine.end == cfg.train_cfg.max_epochs == 30
    assert len(cfg.param_scheduler) == 1 + (warm_up > 0)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResizedCrop'].scale == 384 and steps['RandomErasing'].erase_prob == 0.25
    hooks = [(hook.type, hook.get('prefix')) for hook in cfg.custom_hooks]
    assert hooks == ([('EMAHook', None)] if 'replknet' in name else [('FixedSparsityHook', '')])

    from mmengine.optim import build_optim_wrapper

    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    schedule = {key: value for key, value in cosine.items() if key not in ('begin', 'convert_to_iter_based')}
    # The last step of mmengine's schedule is just before its end.
    scheduler = PARAM_SCHEDULERS.build(dict(schedule, end=11, T_max=10), default_args=dict(optimizer=optimizer))
    names = {id(p): name for name, p in model.named_parameters()}
    for highest in (lr, last_lr):  # at the start and at the end
        rate = {names[id(p)]: group['lr'] / highest for group in optimizer.param_groups for p in group['params']}
        assert rate['head.fc.weight'] == pytest.approx(1)
        if 'swin' in name:
            assert list(rate.values()) == pytest.approx([1] * len(rate))
        else:
            stages = [key for key in names.values() if key.startswith('backbone.stages.')]
            # The first parameter of the second group of stage 3.
            block = 'blocks.4.large_kernel' if 'replknet' in name else '3.pointwise_conv1'
            middle = next(key for key in stages if key.startswith(f'backbone.stages.2.{block}'))
            depths = [rate[key] for key in (next(iter(names.values())), middle, stages[-1])]
            assert depths == pytest.approx([0.7**13, 0.7**9, 0.7])
        for _ in range(10):
            scheduler.step()


@pytest.mark.parametrize('path', sorted((CONFIGS / 'baselines').glob('*swin*.py')), ids=lambda path: path.stem)
def test_swin_has_its_own_drop_path_clipping_and_weight_decay(path):
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(path)
    enter_scope(cfg.default_scope)
    kind, size = 'in1k' if 'in1k' in path.stem else path.stem.split('_')[0], re.search('swin_([tsb])', path.stem)[1]
    rates = dict(in1k=dict(t=0.2, s=0.3, b=0.5), upernet=dict(t=0.3, s=0.3, b=0.3), cascade=dict(t=0.2, s=0.2, b=0.3))
    assert cfg.model.backbone.drop_path_rate == rates[kind][size]
    assert cfg.optim_wrapper.get('clip_grad') == (dict(max_norm=5.0) if kind == 'in1k' else None)
    model = MODELS.build(cfg.model)
    settings = {key: cfg.optim_wrapper[key] for key in ('optimizer', 'paramwise_cfg')}
    optimizer = build_optim_wrapper(model, settings).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.backbone.named_parameters():
        assert (decay[id(parameter)] == 0) == (parameter.ndim == 1 or 'position_bias' in name), name


@pytest.mark.parametrize('name, rate', [('upernet_replknet_b_ade20k', 0.5), ('cascade_mask_rcnn_replknet_b_coco', 0.6)])
def test_replknet_has_its_own_drop_path(name, rate):
    assert Config.fromfile(CONFIGS / f'baselines/{name}.py').model.backbone.drop_path_rate == rate


def test_imagenet_excludes_biases_norms_and_h_from_weight_decay():
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(CONFIGS / 'pelk_t_in1k.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    settings = dict(optimizer=cfg.optim_wrapper.optimizer, paramwise_cfg=cfg.optim_wrapper.paramwise_cfg)
    optimizer = build_optim_wrapper(model, settings).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.05 if parameter.ndim in (2, 4) else 0), name


def test_layer_decay_groups_pelk_like_convnext():
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
