"""A converted model must compute the same outputs as the foreign model."""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmpelk.checkpoints.foreign_names import convert, convert_name, format_table, matched_share, source_weights
from mmpelk.models import PeLK

DEPTHS, CHANNELS = (2, 1, 1, 1), (8, 12, 16, 20)
LIKE_CONVNEXT = dict(
    arch=dict(depths=DEPTHS, channels=CHANNELS),
    width_factor=1.0,
    kernel_sizes=(7, 7, 7, 7),
    kernel_form='dense',
    conv_ratio=1.0,
    small_kernel=None,
    norm_cfg=None,
    pos_embed=None,
    out_indices=(3,),
    gap_before_final_norm=True,
)


def conv_bn(channels, kernel):
    parts = dict(
        conv=nn.Conv2d(channels, channels, kernel, padding=[k // 2 for k in kernel], groups=channels, bias=False),
        bn=nn.BatchNorm2d(channels),
    )
    return nn.ModuleDict(parts)


class Block(nn.Module):
    """A block with the names of official checkpoints: ConvNeXt's for the mixer 'convnext', otherwise SLaK's."""

    def __init__(self, channels, mixer):
        super().__init__()
        self.mixer = mixer
        if mixer == 'convnext':
            self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        elif mixer == 'merged':
            reparam = nn.Conv2d(channels, channels, 13, padding=6, groups=channels)
            self.large_kernel = nn.ModuleDict(dict(lkb_reparam=reparam))
        else:
            kernels = dict(LoRA1=(13, 5), LoRA2=(5, 13)) if mixer == 'stripes' else dict(lkb_origin=(13, 13))
            parts = {name: conv_bn(channels, kernel) for name, kernel in kernels.items()}
            self.large_kernel = nn.ModuleDict(dict(parts, small_conv=conv_bn(channels, (5, 5))))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        if self.mixer == 'convnext':
            y = self.dwconv(x)
        elif self.mixer == 'merged':
            y = self.large_kernel['lkb_reparam'](x)
        else:
            y = sum(part['bn'](part['conv'](x)) for part in self.large_kernel.values())
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y.permute(0, 2, 3, 1))))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Official(nn.Module):
    """ConvNeXt's classifier with the names of official checkpoints."""

    def __init__(self, mixer):
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, CHANNELS[0], 4, 4), ChannelsFirstNorm(CHANNELS[0], eps=1e-6))]
        for old, new in pairwise(CHANNELS):
            layers.append(nn.Sequential(ChannelsFirstNorm(old, eps=1e-6), nn.Conv2d(old, new, 2, 2)))
        self.downsample_layers = nn.ModuleList(layers)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, mixer) for _ in range(depth))) for depth, width in zip(DEPTHS, CHANNELS, strict=True)
        )
        self.norm = nn.LayerNorm(CHANNELS[-1], eps=1e-6)
        self.head = nn.Linear(CHANNELS[-1], 5)
        for name, value in self.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif name.endswith(('running_mean', 'norm.weight', 'norm.bias')):
                value.normal_()
        self.eval()

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.norm(x.mean((2, 3)))


def timm_name(name):
    name = re.sub(r'^downsample_layers\.0\.', 'stem.', name)
    name = re.sub(r'^downsample_layers\.(\d)\.', r'stages.\1.downsample.', name)
    name = re.sub(r'^stages\.(\d)\.(\d)\.', r'stages.\1.blocks.\2.', name)
    for official, timm in (('dwconv', 'conv_dw'), ('pwconv1', 'mlp.fc1'), ('pwconv2', 'mlp.fc2')):
        name = name.replace(official, timm)
    return re.sub(r'^norm\.', 'head.norm.', re.sub(r'^head\.', 'head.fc.', name))


def mmpretrain_name(name):
    for official, ours in (('dwconv', 'depthwise_conv'), ('pwconv1', 'pointwise_conv1'), ('pwconv2', 'pointwise_conv2')):
        name = name.replace(official, ours)
    return re.sub(r'^head\.', 'head.fc.', 'backbone.' + re.sub(r'^norm\.', 'norm3.', name) if name[:4] != 'head' else name)


def backbone_of(fits):
    return {name.removeprefix('backbone.'): value for name, value in fits.items() if name.startswith('backbone.')}


@pytest.mark.parametrize('rename', [lambda name: name, timm_name, mmpretrain_name], ids=['official', 'timm', 'mmpretrain'])
def test_convnext(rename):
    official, model = Official('convnext'), PeLK(**LIKE_CONVNEXT).eval()
    weights = {rename(name): value for name, value in official.state_dict().items()}
    fits, rows = convert(weights, model)
    assert {name for name in fits if not name.startswith('backbone.')} == set()
    assert matched_share(fits, model) == 1
    model.load_state_dict(backbone_of(fits))
    x = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(model(x)[0], official(x), rtol=1e-4, atol=1e-5)
    states = {row.state for row in rows}
    assert states == {'loaded', 'unused: not in the model'}  # a backbone has no head


SLAK = dict(LIKE_CONVNEXT, kernel_sizes=(13, 13, 13, 13), small_kernel=5, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize(
    'mixer, options',
    [('stripes', dict(kernel_form='stripe')), ('dense', {}), ('merged', dict(small_kernel=None, norm_cfg=None))],
)
def test_slak(mixer, options):
    official, model = Official(mixer), PeLK(**{**SLAK, **options}).eval()
    fits, _ = convert(official.state_dict(), model)
    assert matched_share(fits, model) == 1
    model.load_state_dict(backbone_of(fits))
    x = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(model(x)[0], official(x), rtol=1e-4, atol=1e-5)


def test_pruned_zeros_survive():
    official = Official('stripes')
    with torch.no_grad():
        official.stages[0][0].pwconv1.weight[:, ::2] = 0
    model = PeLK(**{**SLAK, 'kernel_form': 'stripe'})
    fits, _ = convert(official.state_dict(), model)
    assert (fits['backbone.stages.0.0.pointwise_conv1.weight'] == 0).float().mean() == 0.5


def test_a_7x7_kernel_is_resized_to_a_larger_peripheral_kernel():
    official = Official('convnext')
    model = PeLK(**{**LIKE_CONVNEXT, 'kernel_form': 'peripheral', 'kernel_sizes': (51, 49, 47, 13), 'center_size': 7}).eval()
    fits, rows = convert(official.state_dict(), model)
    assert any(row.state == 'loaded, resized' for row in rows) and matched_share(fits, model) == 1
    model.load_state_dict(backbone_of(fits))
    x = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(model(x)[0], official(x), rtol=1e-4, atol=1e-5)  # the 7x7 center is fine-grained


def test_the_report():
    weights = {**Official('convnext').state_dict(), 'extra.thing': torch.zeros(1)}
    model = PeLK(**{**LIKE_CONVNEXT, 'small_kernel': 5, 'conv_ratio': 0.5})
    fits, rows = convert(weights, model)
    assert matched_share(fits, model) < 0.8
    table = format_table(rows)
    assert re.search(r'stages\.\*\.\*\.pwconv1\.weight +backbone\.stages\.\*\.\*\.pointwise_conv1\.weight +5  loaded', table)
    assert re.search(r'extra\.thing +- +1  unused: unknown name', table)
    assert re.search(r'- +stages\.\*\.\*\.token_mixer\.small\.weight +5  missing', table)
    assert re.search(r'dwconv\.weight +backbone\.stages\.\*\.\*\.token_mixer\.large\.weight +5  unused: of another shape', table)


def test_names():
    assert convert_name('backbone.stages.0.1.token_mixer.large.weight') == 'backbone.stages.0.1.token_mixer.large.weight'
    assert convert_name('layer1.0.conv1.weight') is None
    nested = dict(model=dict(a=torch.zeros(1)), model_ema=dict(a=torch.ones(1)))
    assert source_weights(nested)['a'] == 0 and source_weights(nested, ema=True)['a'] == 1
    assert set(source_weights(dict(a=torch.zeros(1), step=3))) == {'a'}
