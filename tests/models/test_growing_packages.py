"""Grow the ConvNeXts of timm, torchvision, and transformers, with random weights.

transformers cannot be installed together with OneDL's mmpretrain. ``make test-transformers`` runs its tests with a separate folder of
packages.
"""

import copy

import pytest
import torch
from feature_maps import all_outputs, check_equal, randomize_constants

from mmpelk.models import grow_kernels, switch_to_deploy

SIZES, WIDTHS, DEPTHS = (51, 49, 47, 13), (8, 12, 16, 20), (2, 1, 1, 2)


def check_growing(model, size=72):
    """Grow a model, and check everything that must not change."""
    model = randomize_constants(model)
    plain = copy.deepcopy(model)
    x = torch.randn(2, 3, size, size + 40)
    expected = all_outputs(model, x)
    growth = grow_kernels(model, SIZES)
    assert [kernel.new for kernel in growth.grown.values()] == [51, 51, 49, 47, 13, 13]
    assert all(kernel.old == 7 for kernel in growth.grown.values()) and set(growth.left.values()) <= {'not depthwise'}
    check_equal(all_outputs(model, x), expected)
    # A checkpoint of the package's own model loads strictly.
    torch.nn.init.zeros_(next(parameter for parameter in model.parameters() if parameter.ndim == 4))
    for module in model.modules():
        if hasattr(module, 'half_grid'):
            torch.nn.init.normal_(module.weight)
    assert str(model.load_state_dict(plain.state_dict())) == '<All keys matched successfully>'
    check_equal(all_outputs(model, x), expected)
    switch_to_deploy(model)
    check_equal(all_outputs(model, x), expected)


@pytest.mark.parametrize('features_only', [False, True])
@pytest.mark.parametrize('name', ['convnext_atto', 'convnextv2_atto', 'convnext_tiny.dinov3_lvd1689m'])
def test_timm(name, features_only):
    timm = pytest.importorskip('timm')
    check_growing(timm.create_model(name, features_only=features_only, depths=DEPTHS, dims=WIDTHS))


def test_torchvision():
    pytest.importorskip('torchvision')
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(width, after, depth) for width, after, depth in zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)]
    check_growing(ConvNeXt(stages))


@pytest.mark.parametrize(
    'name',
    [
        'ConvNextModel',
        'ConvNextForImageClassification',
        'ConvNextBackbone',
        'ConvNextV2ForImageClassification',
        'ConvNextV2Backbone',
        'DINOv3ConvNextModel',
        'DINOv3ConvNextBackbone',
    ],
)
def test_transformers(name):
    transformers = pytest.importorskip('transformers')
    model = getattr(transformers, name)
    config = model.config_class(depths=list(DEPTHS), hidden_sizes=list(WIDTHS))
    if name.endswith('Backbone'):
        config.out_features = ['stage1', 'stage2', 'stage3', 'stage4']
    check_growing(model(config))
