"""Checkpoints that parts of a model are initialized from."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from small_models import Part, save_part
from torch import nn

from mmpelk.engine.pretrained import prepare_pretrained
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError


@pytest.fixture
def saved(tmp_path, safe_io):
    return save_part(tmp_path)


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
@pytest.mark.parametrize('several', [False, True])
def test_prepare_pretrained(saved, prefix, several):
    init = dict(type='Pretrained', checkpoint=str(saved), prefix=prefix)
    inits = [dict(type='Normal', layer='Linear'), init] if several else init
    prepare_pretrained(nn.Sequential(nn.ReLU(), nn.Sequential(Part(inits))), saved.parent)
    init['checkpoint'] = str(saved.with_name('none.pth'))
    with pytest.raises(InputError, match='none.pth does not exist'):
        prepare_pretrained(nn.Sequential(nn.ReLU(), nn.Sequential(Part(copy.deepcopy(inits)))), saved.parent)


def test_prepare_pretrained_of_another_part(saved):
    part = Part(dict(type='Pretrained', checkpoint=str(saved), prefix='backbone.'))
    part.more = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    with pytest.raises(InputError, match='4 of 10 tensors fit'):
        prepare_pretrained(part, saved.parent)


LIKE_CONVNEXT = dict(
    arch=dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)),
    width_factor=1.0,
    conv_ratio=1.0,
    small_kernel=None,
    norm_cfg=None,
    pos_embed=None,
)


def official_weights():
    """Weights with the official names of a ConvNeXt classifier, which has only the last of PeLK's norms."""
    weights = PeLK(**LIKE_CONVNEXT, kernel_form='dense', kernel_sizes=(7,) * 4, out_indices=(3,)).state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith('half_grid')}
    names = (('token_mixer.large', 'dwconv'), ('pointwise_conv', 'pwconv'), ('norm3', 'norm'))
    for ours, theirs in names:
        weights = {name.replace(ours, theirs): value for name, value in weights.items()}
    return {**weights, 'head.weight': torch.zeros(10, 8)}


@pytest.mark.parametrize('grown', [False, True])
def test_a_foreign_checkpoint_is_converted_on_the_way_in(grown, tmp_path):
    weights = official_weights()
    torch.save(dict(model=weights), tmp_path / 'convnext.pth')
    # As tools/train.py --pretrained sets it.
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'convnext.pth'), prefix='backbone.')
    if grown:
        inner = dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[1] * 4, channels=[8] * 4))
        inner.update(out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
        backbone = MODELS.build(dict(type='GrownBackbone', backbone=inner, kernel_sizes=51, init_cfg=init))
        names = [f'stages.{stage}.0.depthwise_conv.weight' for stage in range(4)]
    else:
        backbone = PeLK(**LIKE_CONVNEXT, center_size=7, init_cfg=init)
        names = [f'stages.{stage}.0.token_mixer.large.weight' for stage in range(4)]
    model = nn.ModuleDict(dict(backbone=backbone))
    prepare_pretrained(model, tmp_path / 'work')
    assert init['checkpoint'].endswith('convnext.pth') and (tmp_path / 'work/converted_convnext.pth').exists()
    backbone.init_weights()
    for stage, name in enumerate(names):
        kernel = backbone.state_dict()[name]
        around = (kernel.shape[-1] - 7) // 2
        center = kernel[..., around : around + 7, around : around + 7]
        assert torch.equal(center, weights[f'stages.{stage}.0.dwconv.weight']), name
        assert kernel.count_nonzero() == center.numel()


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda weights: {f'{name}.x': value for name, value in weights.items()},
            'it lacks 52 tensors .* it has 54 tensors',
        ),
        (
            lambda weights: {n: v for n, v in weights.items() if 'dwconv' not in n},
            r'it lacks 8 tensors .*stages\.\*\.\*\.token_mixer',
        ),
        (lambda weights: {**weights, 'stages.0.0.grn.gamma': torch.zeros(1, 1, 1, 32)}, r'it has 1 tensors .*grn\.gamma'),
        (lambda weights: {n: v[:4] if 'dwconv' in n else v for n, v in weights.items()}, 'it lacks 8 tensors'),
    ],
    ids=['unknown names', 'no kernels', 'ConvNeXt V2', 'other widths'],
)
def test_a_foreign_checkpoint_that_does_not_fit_is_refused(change, message, tmp_path):
    torch.save(dict(model=change(official_weights())), tmp_path / 'convnext.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'convnext.pth'))
    with pytest.raises(InputError, match=message):
        prepare_pretrained(PeLK(**LIKE_CONVNEXT, center_size=7, init_cfg=init), tmp_path)
