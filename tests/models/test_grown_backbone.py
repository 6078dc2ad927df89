"""OpenMMLab's own backbones with grown kernels: checkpoints, initialization, freezing, and layer decay work as before."""

import copy

import pytest
import torch
from feature_maps import all_outputs, check_equal, randomize_constants
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmpelk.models import GrownConv2d
from mmpelk.sparsity.masks import mask_of_zeros, shared_kernels, sparse_weights
from mmpelk.utils.errors import InputError

SIZES = (51, 49, 47, 13)
V1 = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[2, 1, 1, 2], channels=[8, 12, 16, 20]),
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
    layer_scale_init_value=1.0,
    drop_path_rate=0.1,
)
V2 = dict(V1, use_grn=True, layer_scale_init_value=0.0)
TIMM = dict(type='mmpretrain.TIMMBackbone', features_only=True, depths=(2, 1, 1, 2), dims=(8, 12, 16, 20))
INNER = dict(
    v1=V1,
    v2=V2,
    timm=dict(TIMM, model_name='convnext_atto'),
    timm_v2=dict(TIMM, model_name='convnextv2_atto'),
    timm_dinov3=dict(TIMM, model_name='convnext_tiny.dinov3_lvd1689m'),
)
IMAGES = (2, 3, 72, 100)


def grown(inner=V1, **options):
    return dict(type='GrownBackbone', backbone=inner, kernel_sizes=SIZES, **options)


def segmentor(backbone):
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone,
        decode_head=dict(
            type='mmseg.UPerHead',
            in_channels=[8, 12, 16, 20],
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
            channels=8,
            num_classes=3,
            norm_cfg=dict(type='BN'),
            align_corners=False,
        ),
    )


def classifier(backbone):
    return dict(
        type='mmpretrain.ImageClassifier', backbone=backbone, data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor')
    )


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def build(config):
    return MODELS.build(copy.deepcopy(config))


@pytest.mark.parametrize('inner', INNER)
def test_the_inner_backbone_with_grown_kernels(inner):
    plain, model = build(INNER[inner]), build(grown(INNER[inner]))
    assert type(model) is type(plain)
    assert [name for name in model.state_dict() if not name.endswith('half_grid')] == list(plain.state_dict())
    kernels = [module for module in model.modules() if isinstance(module, GrownConv2d)]
    assert [kernel.kernel_size[0] for kernel in kernels] == [51, 51, 49, 47, 13, 13]
    randomize_constants(plain)
    assert str(model.load_state_dict(plain.state_dict())) == '<All keys matched successfully>'
    model.eval()
    x = torch.randn(IMAGES)
    check_equal(all_outputs(model, x), all_outputs(plain, x))


@pytest.mark.parametrize('inner', ['v1', 'v2', 'timm'])
def test_a_checkpoint_of_a_whole_segmentor(inner, tmp_path):
    plain, model = build(segmentor(INNER[inner])), build(segmentor(grown(INNER[inner])))
    randomize_constants(plain)
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    load_checkpoint(model, str(tmp_path / 'plain.pth'), strict=True)
    model.eval()
    x = torch.randn(IMAGES)
    check_equal(all_outputs(model, x), all_outputs(plain, x))
    # A checkpoint saved after growing.
    nn.init.normal_(model.get_submodule(next(iter(kernel_names(model)))).weight)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'grown.pth')
    again = build(segmentor(grown(INNER[inner])))
    load_checkpoint(again, str(tmp_path / 'grown.pth'), strict=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def kernel_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, GrownConv2d)]


@pytest.mark.parametrize('outside', [False, True])
def test_init_cfg(outside, tmp_path):
    plain = randomize_constants(build(segmentor(V2)))
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'), prefix='backbone.')
    config = grown(V2, init_cfg=init_cfg) if outside else grown(dict(V2, init_cfg=init_cfg))
    model = build(segmentor(config))
    model.init_weights()
    model.eval()
    x = torch.randn(IMAGES)
    check_equal(all_outputs(model.backbone, x), all_outputs(plain.backbone, x))


def test_without_a_checkpoint_the_centers_are_initialized_as_before():
    """ConvNeXt initializes its convolutions with a standard deviation of 0.02. With torch's own initialization, it is 0.08."""
    model = build(grown(dict(V1, arch='atto')))
    model.init_weights()
    for name in kernel_names(model):
        weight = model.get_submodule(name).weight
        around = (weight.shape[-1] - 7) // 2
        center = weight[..., around : around + 7, around : around + 7]
        assert center.std().item() == pytest.approx(0.02, rel=0.1) and weight.count_nonzero() == center.numel()
        assert not model.get_submodule(name).bias.any()


def test_frozen_stages():
    model = build(grown(dict(V1, frozen_stages=2)))
    for _ in range(2):
        frozen = [name for name in kernel_names(model) if not model.get_submodule(name).weight.requires_grad]
        assert frozen == ['stages.0.0.depthwise_conv', 'stages.0.1.depthwise_conv', 'stages.1.0.depthwise_conv']
        assert not any(model.get_submodule(name).training for name in frozen)
        model.train()


@pytest.mark.parametrize('framework', ['mmseg', 'mmdet', 'mmpretrain'])
def test_layer_decay(framework):
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    if framework == 'mmpretrain':
        from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor as Constructor

        paramwise, model_of = dict(layer_decay_rate=0.5), classifier
    else:
        if framework == 'mmseg':
            from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor as Constructor
        else:
            pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
            from mmdet.engine.optimizers import LearningRateDecayOptimizerConstructor as Constructor
        paramwise, model_of = dict(decay_rate=0.5, decay_type='layer_wise', num_layers=6), segmentor
    groups = []
    for backbone in (V1, grown()):
        model = build(model_of(backbone))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        optimizer = Constructor(wrapper, dict(paramwise))(model).optimizer
        groups.append({names[id(p)]: (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']})
    assert groups[0] == groups[1] and len(set(groups[1].values())) > 4


def test_fixed_sparsity_trains_the_periphery():
    """The zeros that growing adds are not pruned weights."""
    model = build(grown())
    names = {f'{name}.weight' for name in kernel_names(model)}
    assert (
        names and names <= shared_kernels(model) and not names & set(mask_of_zeros(sparse_weights(model), shared_kernels(model)))
    )


def test_deployed(tmp_path):
    model, deployed = build(grown()), build(grown(deploy='plain'))
    assert kernel_names(deployed) == [] and deployed.stages[0][0].depthwise_conv.weight.shape == (8, 1, 51, 51)
    from mmpelk.deployment import fold

    randomize_constants(model)
    for name in kernel_names(model):
        nn.init.normal_(model.get_submodule(name).weight, std=0.01)
    x = torch.randn(IMAGES)
    expected = all_outputs(model, x)
    assert fold(model) < 1e-5
    deployed.load_state_dict(model.state_dict())
    deployed.eval()
    check_equal(all_outputs(deployed, x), expected)
    with pytest.raises(InputError, match='has neither a PeLK nor a backbone with grown kernels to fold'):
        fold(model)
    with pytest.raises(InputError, match='has nothing to fold except its grids'):
        fold(build(grown()), keep_grid=True)


def test_options_and_errors():
    model = build(grown(grid_base=3, backend='dense'))
    kernel = model.get_submodule(kernel_names(model)[0])
    assert kernel.backend == 'dense' and kernel.grid.half[-5:] == (3, 1, 1, 1, 1)
    model = build(dict(grown(), kernel_sizes={'stages.0': 51}))
    assert kernel_names(model) == ['stages.0.0.depthwise_conv', 'stages.0.1.depthwise_conv']
    for config, message in (
        (dict(grown(), kernel_sizes=(51, 49)), 'one size for each of the 4 stages .of 8, 12, 16, 20 channels.'),
        (grown(deploy='grid'), "deploy must be None or 'plain', got 'grid'"),
        (grown(dict(type='mmpretrain.Nope')), 'the config cannot be built: .*Nope is not in'),
        (grown(dict(V1, arch='huge-tiny')), 'the config cannot be built: Unavailable arch'),
        (grown(dict(type='mmseg.ResNet', depth=18)), 'ResNet.* has no kernel to grow'),
    ):
        with pytest.raises(ValueError, match=message):
            build(config)
