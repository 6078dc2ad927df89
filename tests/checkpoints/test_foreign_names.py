"""A converted model must compute the same outputs as the foreign model."""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from feature_maps import randomize_constants
from torch import nn

from mmpelk.checkpoints.foreign_names import convert, convert_name, format_table, source_weights
from mmpelk.models import PeLK, grow_kernels
from mmpelk.utils.errors import InputError

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
    """A block with the names of official checkpoints: ConvNeXt's if the mixer is 'convnext', otherwise SLaK's."""

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


def backbone_of(weights):
    return {name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')}


def check_converted(weights, expected, x, **options):
    """Convert the weights for a PeLK and compare its pooled, normalized features. Return the conversion."""
    model = PeLK(**{**LIKE_CONVNEXT, **options}).eval()
    conversion = convert(weights, model)
    conversion.check('x.pth')
    model.load_state_dict(backbone_of(conversion.weights))
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], expected, rtol=1e-4, atol=1e-5)
    return conversion


GROWN = dict(kernel_form='peripheral', kernel_sizes=(51, 49, 47, 13), center_size=7)
IMAGES = (2, 3, 64, 96)


@pytest.mark.parametrize('options', [{}, GROWN], ids=['7x7', 'grown'])
def test_official_convnext(options):
    official, x = Official('convnext'), torch.randn(IMAGES)
    conversion = check_converted(official.state_dict(), official(x), x, **options)
    states = {state for _, _, state in conversion.states}
    assert states == {'loaded, resized' if options else 'loaded', 'loaded', 'unused: not in the model'}  # a backbone has no head


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
def test_dinov3(prefix):
    """DINOv3's own ConvNeXt has the official names, no head, and a second name of its last norm."""
    official, x = Official('convnext'), torch.randn(IMAGES)
    weights = {name: value for name, value in official.state_dict().items() if not name.startswith('head.')}
    weights.update({f'norms.3.{kind}': weights[f'norm.{kind}'] for kind in ('weight', 'bias')})
    weights = {prefix + name: value for name, value in weights.items()}
    check_converted(source_weights(weights), official(x), x)
    weights[f'{prefix}norms.3.weight'] = torch.zeros(CHANNELS[-1])
    conversion = convert(source_weights(weights), PeLK(**LIKE_CONVNEXT))
    with pytest.raises(InputError, match=r'it has 1 tensors that the backbone does not have \(.*norms.3.weight'):
        conversion.check('x.pth')


@pytest.mark.parametrize('features_only', [False, True])
@pytest.mark.parametrize('name', ['convnext_atto', 'convnextv2_atto', 'convnext_tiny.dinov3_lvd1689m'])
def test_timm(name, features_only):
    """The small models have 1x1 convolutions where PeLK has linear layers. V2 has a GRN and no layer scale."""
    timm = pytest.importorskip('timm')
    model = randomize_constants(timm.create_model(name, depths=DEPTHS, dims=CHANNELS))
    options = dict(use_grn=True, layer_scale_init_value=0.0) if 'v2' in name else {}
    weights, x = model.state_dict(), torch.randn(IMAGES)
    if features_only:  # names such as stages_0.blocks, and no last norm
        wrapped = timm.create_model(name, depths=DEPTHS, dims=CHANNELS, features_only=True)
        weights = {f'timm_model.{own}': weights[re.sub(r'^(stem|stages)_', r'\1.', own)] for own in wrapped.state_dict()}
        with pytest.raises(InputError, match=r'it lacks 2 tensors of the backbone \(norm3.weight, norm3.bias\)\.'):
            convert(weights, PeLK(**LIKE_CONVNEXT, **options)).check('x.pth')
        weights.update({f'head.norm.{kind}': model.state_dict()[f'head.norm.{kind}'] for kind in ('weight', 'bias')})
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
    check_converted(weights, expected, x, **options)


def test_torchvision():
    pytest.importorskip('torchvision')
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    after = (*CHANNELS[1:], None)
    model = randomize_constants(ConvNeXt([CNBlockConfig(*stage) for stage in zip(CHANNELS, after, DEPTHS, strict=True)]))
    x = torch.randn(IMAGES)
    with torch.no_grad():
        expected = model.classifier[0](model.avgpool(model.features(x))).flatten(1)
    conversion = check_converted(model.state_dict(), expected, x)
    assert ('classifier.2.weight', 'head.fc.weight', 'unused: not in the model') in conversion.states


@pytest.mark.parametrize('name', ['ConvNextModel', 'ConvNextForImageClassification', 'ConvNextV2Model', 'DINOv3ConvNextModel'])
def test_transformers(name):
    """``make test-transformers`` runs this test."""
    transformers = pytest.importorskip('transformers')
    kind = getattr(transformers, name)
    # A DINOv3 config does not set the eps of the last norm to PeLK's value. The difference is negligible.
    model = randomize_constants(kind(kind.config_class(depths=list(DEPTHS), hidden_sizes=list(CHANNELS))))
    x = torch.randn(IMAGES)
    with torch.no_grad():
        expected = getattr(model, 'convnext', model)(x).pooler_output
    options = dict(use_grn=True, layer_scale_init_value=0.0) if 'V2' in name else {}
    check_converted(model.state_dict(), expected, x, **options)


def test_norms_of_a_transformers_backbone():
    for stage in range(1, 5):
        assert convert_name(f'hidden_states_norms.stage{stage}.weight') == f'backbone.norm{stage - 1}.weight'


@pytest.mark.parametrize('use_grn', [False, True])
def test_mmpretrain(use_grn):
    """Convert a classifier, and a backbone with several outputs as in a fine-tuned segmentor, whose norm0 to norm2 are used too."""
    convnext = pytest.importorskip('mmpretrain.models').ConvNeXt
    options = dict(out_indices=(0, 1, 2, 3), gap_before_final_norm=False, use_grn=use_grn)
    options['layer_scale_init_value'] = 0.0 if use_grn else 1.0
    foreign = convnext(arch=dict(depths=list(DEPTHS), channels=list(CHANNELS)), **options)
    randomize_constants(foreign)
    weights = {f'backbone.{name}': value for name, value in foreign.state_dict().items()}
    model = PeLK(**{**LIKE_CONVNEXT, **GROWN, **options}).eval()
    conversion = convert(weights, model)
    conversion.check('x.pth')
    assert str(model.load_state_dict(backbone_of(conversion.weights))) == '<All keys matched successfully>'
    x = torch.randn(IMAGES)
    with torch.no_grad():
        for output, expected in zip(model(x), foreign(x), strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_the_heads_of_a_fine_tuned_model_are_kept():
    """Names of heads are not translated. A norm in a head is not a norm of the backbone."""
    model = nn.ModuleDict(dict(backbone=PeLK(**LIKE_CONVNEXT), decode_head=nn.ModuleDict(dict(norm3=nn.LayerNorm(4)))))
    weights = {f'backbone.{name}': value for name, value in Official('convnext').state_dict().items() if 'head' not in name}
    heads = {'decode_head.norm3.weight': torch.randn(4), 'decode_head.norm3.bias': torch.randn(4)}
    conversion = convert({**weights, **heads, 'auxiliary_head.conv.weight': torch.randn(1)}, model)
    conversion.check('x.pth')
    assert str(model.load_state_dict(conversion.weights)) == '<All keys matched successfully>'
    assert torch.equal(model['decode_head']['norm3'].weight, heads['decode_head.norm3.weight'])
    assert conversion.states[-1] == ('auxiliary_head.conv.weight', '-', 'unused: unknown name')


def test_from_a_foreign_model_to_another(monkeypatch):
    """The names of the target are translated too: timm's weights for mmpretrain's ConvNeXt with grown kernels, and vice versa."""
    timm, models = pytest.importorskip('timm'), pytest.importorskip('mmpretrain.models')
    arch = dict(depths=list(DEPTHS), channels=list(CHANNELS))
    source = randomize_constants(timm.create_model('convnextv2_atto', depths=DEPTHS, dims=CHANNELS, num_classes=0))
    target = models.ConvNeXt(arch=arch, use_grn=True, layer_scale_init_value=0.0)
    grow_kernels(target, (51, 49, 47, 13))
    conversion = convert(source.state_dict(), target)
    conversion.check('x.pth')
    assert str(target.load_state_dict(backbone_of(conversion.weights))) == '<All keys matched successfully>'
    target.eval()
    x = torch.randn(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(target(x)[0], source(x), rtol=1e-4, atol=1e-5)
    back = convert(models.ConvNeXt(arch=arch, use_grn=True, layer_scale_init_value=0.0).state_dict(), source)
    back.check('x.pth')
    assert backbone_of(back.weights).keys() == source.state_dict().keys()


def test_what_the_check_refuses_and_what_flags_allow():
    weights = Official('convnext').state_dict()
    model = PeLK(**{**LIKE_CONVNEXT, 'use_grn': True, 'out_indices': (0, 3)})
    conversion = convert({**weights, 'stages.0.0.extra': torch.zeros(1), 'step': torch.zeros(1)}, model)
    message = (
        r'^checkpoint x.pth does not fit the backbone: it lacks 12 tensors of the backbone \(stages.\*.\*.grn.gamma, '
        r'stages.\*.\*.grn.beta, norm0.weight, norm0.bias\); it has '
        r'2 tensors that the backbone does not have \(stages.\*.\*.extra, step\)\. If .* --allow-missing and --allow-unused$'
    )
    with pytest.raises(InputError, match=message):
        conversion.check('x.pth')
    with pytest.raises(InputError, match=r'it lacks 2 tensors of the backbone \(norm0.weight'):
        conversion.check('x.pth', ['*.grn.*'], ['*.extra', 'step'])
    conversion.check('x.pth', ['*.grn.*', 'norm0.*'], ['*.extra', 'step'])
    with pytest.raises(InputError, match='it lacks 63 tensors'):
        convert({'layer1.0.conv1.weight': torch.zeros(3)}, PeLK(**LIKE_CONVNEXT)).check('x.pth')


SLAK = dict(LIKE_CONVNEXT, kernel_sizes=(13, 13, 13, 13), small_kernel=5, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize(
    'mixer, options',
    [('stripes', dict(kernel_form='stripe')), ('dense', {}), ('merged', dict(small_kernel=None, norm_cfg=None))],
)
def test_slak(mixer, options):
    official, model = Official(mixer), PeLK(**{**SLAK, **options}).eval()
    conversion = convert(official.state_dict(), model)
    conversion.check('x.pth')
    model.load_state_dict(backbone_of(conversion.weights))
    x = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(model(x)[0], official(x), rtol=1e-4, atol=1e-5)


def test_pruned_zeros_survive():
    official = Official('stripes')
    with torch.no_grad():
        official.stages[0][0].pwconv1.weight[:, ::2] = 0
    model = PeLK(**{**SLAK, 'kernel_form': 'stripe'})
    weights = convert(official.state_dict(), model).weights
    assert (weights['backbone.stages.0.0.pointwise_conv1.weight'] == 0).float().mean() == 0.5


def test_the_report():
    weights = {**Official('convnext').state_dict(), 'extra.thing': torch.zeros(1)}
    model = PeLK(**{**LIKE_CONVNEXT, 'small_kernel': 5, 'conv_ratio': 0.5})
    table = format_table(convert(weights, model).rows())
    assert re.search(r'stages\.\*\.\*\.pwconv1\.weight +backbone\.stages\.\*\.\*\.pointwise_conv1\.weight +5  loaded', table)
    assert re.search(r'extra\.thing +- +1  unused: unknown name', table)
    assert re.search(r'- +backbone\.stages\.\*\.\*\.token_mixer\.small\.weight +5  missing', table)
    assert re.search(r'dwconv\.weight +backbone\.stages\.\*\.\*\.token_mixer\.large\.weight +5  unused: of another shape', table)


def test_names():
    assert convert_name('backbone.stages.0.1.token_mixer.large.weight') == 'backbone.stages.0.1.token_mixer.large.weight'
    assert convert_name('layer1.0.conv1.weight') is None
    nested = dict(model=dict(a=torch.zeros(1)), model_ema=dict(a=torch.ones(1)))
    assert source_weights(nested)['a'] == 0 and source_weights(nested, ema=True)['a'] == 1
    assert set(source_weights(dict(a=torch.zeros(1), step=3))) == {'a'}


@pytest.mark.parametrize('weights', [[1], None, {1: torch.zeros(1)}])
def test_weights_that_are_not_a_dict_with_names(weights):
    with pytest.raises(InputError, match=f"has a {type(weights).__name__} as 'model'; expected a dict of weights"):
        source_weights(dict(model=weights))
