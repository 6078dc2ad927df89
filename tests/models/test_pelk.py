import copy
import math
import pickle

import pytest
import torch
from conftest import CONFIGS
from small_models import SMALL, randomized
from torch import nn
from torch.nn.functional import interpolate

from mmpelk.models import PeLK
from mmpelk.models.token_mixer import TokenMixer
from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d
from mmpelk.utils.torch_compat import TORCH

K101 = dict(kernel_sizes=(101, 69, 67, 13), center_size=7)


@pytest.mark.parametrize('arch, kernels, millions', [('tiny', {}, 29), ('small', {}, 50), ('base', {}, 89), ('base', K101, 90)])
def test_kept_parameters_of_table_4(arch, kernels, millions):
    """The models have ImageNet's classifier, and every 2-D and 4-D weight has density 0.6. The paper rounds 50.6 M of S down."""
    with torch.device('meta'):
        backbone = PeLK(arch, out_indices=(3,), **kernels)
        head = nn.Linear(backbone.channels[-1], 1000)
    kept = sum(p.numel() * (0.6 if p.ndim in (2, 4) else 1) for p in [*backbone.parameters(), *head.parameters()])
    assert abs(kept / 1e6 - millions) < (0.7 if arch == 'small' else 0.5)


def test_widths_of_the_paper():
    with torch.device('meta'):
        assert PeLK('tiny').channels == (124, 249, 499, 998)
        assert PeLK('base').channels == (166, 332, 665, 1331)
    assert [PeLK(SMALL, width_factor=f).channels[0] for f in (1.0, 1.3)] == [16, 20]


@pytest.mark.parametrize('arch', ['atto', 'femto', 'pico', 'nano', 'large', 'xlarge'])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 32), (101, 75)])
def test_any_size(arch, size):
    with torch.device('meta'):
        model = PeLK(arch, out_indices=(1, 3)).eval()
        outputs = model(torch.empty(1, 3, *size))
    height, width = (length // 4 for length in size)
    shapes = [(1, channels, height >> i, width >> i) for i, channels in enumerate(model.channels)]
    assert [tuple(output.shape) for output in outputs] == [shapes[1], shapes[3]]
    assert {name for name, _ in model.named_children() if name.startswith('norm')} == {'norm1', 'norm3'}


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(small_kernel=None),
        dict(small_kernel=None, norm_cfg=None),
        dict(use_grn=True),
        dict(pos_embed='per_channel', pos_embed_mode='inside'),
    ],
)
def test_every_parameter_gets_a_gradient(options):
    model = PeLK(SMALL, layer_scale_init_value=1.0, **options)
    sum(output.square().mean() for output in model(torch.randn(2, 3, 65, 96))).backward()
    # A bias that is added to all outputs of a convolution still affects the loss, because the LayerNorm is over the channels.
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_branch_and_norms_are_separate_switches():
    """Without the small branch, the large kernel keeps its BatchNorm. Without norms, it has a bias."""

    def parts(**options):
        mixer = PeLK(SMALL, **options).stages[0][0].token_mixer
        return mixer.small is not None, isinstance(mixer.large_norm, nn.BatchNorm2d), mixer.large.bias is not None

    assert parts() == (True, True, False)
    assert parts(small_kernel=None) == (False, True, False)
    assert parts(norm_cfg=None) == (True, False, True)
    assert parts(small_kernel=None, norm_cfg=None) == (False, False, True)
    # With one branch instead of two, the BatchNorm starts at 1, so the output has the same variance.
    assert PeLK(SMALL, small_kernel=None).stages[0][0].token_mixer.large_norm.weight.tolist() == pytest.approx([1] * 7)


def test_large_sizes_are_those_of_convnext():
    convnext = pytest.importorskip('mmpretrain.models').ConvNeXt
    for arch in ('atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base', 'large', 'xlarge'):
        theirs = convnext.arch_settings[arch]
        assert {name: list(sizes) for name, sizes in PeLK.arch_settings[arch].items()} == theirs


@pytest.mark.parametrize('pos_embed, channels', [('shared', 1), ('per_channel', 7), (None, 0)])
def test_blocks_of_a_stage_share_one_pos_embed(pos_embed, channels):
    model = PeLK(SMALL, pos_embed=pos_embed)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if 'pos_embed' in name}
    assert len(shapes) == (4 if pos_embed else 0)
    if pos_embed:
        assert shapes['stages.0.0.token_mixer.pos_embed.bias'] == (channels, 51, 51)


@pytest.mark.parametrize('branches', [{}, dict(small_kernel=None), dict(small_kernel=None, norm_cfg=None)])
@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('arch, size', [('atto', 128), ('atto', 512), ('tiny', 224)])
def test_convolved_and_passed_channels_start_on_one_scale(arch, size, mode, branches):
    model = PeLK(arch, **branches).train(mode == 'train')
    ratios = []

    def measure(mixer, inputs, output):
        ratios.append((output[:, : mixer.conv_channels].std() / output[:, mixer.conv_channels :].std()).item())

    for stage in model.stages:
        for block in stage:
            block.token_mixer.register_forward_hook(measure)
    smooth = interpolate(torch.randn(2, 3, 6, 6), size=(size, size), mode='bicubic')
    with torch.no_grad():
        model(smooth)
    assert len(ratios) == sum(len(stage) for stage in model.stages)
    assert min(ratios) > 1 / 3 and max(ratios) < 3


@pytest.mark.parametrize('half', [[9, 8, 4, 2, 1, 1, 1], [17, 16, 8, 4, 2, 1, 1, 1, 1], [2, 2, 1, 1, 1]])
def test_cells_of_all_areas_start_equally_strong(half):
    """On a constant input, a cell of area A responds with A * w. All cells contribute equally to a variance of about 2."""
    arch = dict(depths=(1, 1, 1, 1), channels=(500, 8, 8, 8))
    model = PeLK(arch, sharing_grids=[half] * 4, conv_ratio=1.0, width_factor=1.0, small_kernel=3)
    large = model.stages[0][0].token_mixer.large
    assert isinstance(large, PeripheralConv2d) and large.grid.half == tuple(half)
    responses = large.weight.detach()[:, 0] * large.grid.areas().float()
    cells = responses.std(0)
    assert cells.min() / cells.mean() > 0.8 and cells.max() / cells.mean() < 1.2
    assert 1.1 < responses.sum((1, 2)).std() < 1.4  # the truncation at two sigma reduces 2 ** 0.5 to 1.24
    # The convolution itself has this gain inside the map.
    k = large.grid.kernel_size
    with torch.no_grad():
        outputs = large(torch.ones(1, 500, k, k))[0, :, k // 2, k // 2]
    torch.testing.assert_close(outputs, responses.sum((1, 2)), rtol=1e-3, atol=1e-3)


def test_checkpointing_changes_nothing():
    plain = PeLK(SMALL, layer_scale_init_value=1.0)
    recomputed = PeLK(SMALL, layer_scale_init_value=1.0, with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, recomputed):
        sum(output.square().mean() for output in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(a, b), name  # the statistics are updated once per batch


def randomize(model):
    """Give every norm the statistics and affine weights of a trained model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    for name, parameter in model.named_parameters():
        if 'pos_embed' in name or name.endswith(('large.bias', 'vertical.bias')):
            nn.init.normal_(parameter)


STRIPES = dict(kernel_form='stripe', pos_embed=None, conv_ratio=1.0)


@pytest.mark.parametrize('deploy', ['plain', 'grid'])
@pytest.mark.parametrize(
    'options',
    [
        {}, dict(small_kernel=None), dict(pos_embed=None, conv_ratio=1.0), dict(pos_embed='per_channel'), dict(center_size=3),
        dict(kernel_form='dense', kernel_sizes=(31, 29, 27, 13)), STRIPES, dict(STRIPES, small_kernel=None),
        dict(norm_cfg=None), dict(small_kernel=None, norm_cfg=None), dict(STRIPES, small_kernel=None, norm_cfg=None),
    ],
)  # fmt: skip
def test_deploy_keeps_the_outputs(options, deploy):
    model = PeLK(SMALL, layer_scale_init_value=1.0, **options).double().eval()
    randomize(model)
    folded = copy.deepcopy(model)
    folded.switch_to_deploy(keep_grid=deploy == 'grid')
    names = list(folded.state_dict())
    folded.switch_to_deploy(keep_grid=deploy == 'grid')  # folding again changes nothing
    x = torch.randn(1, 3, 70, 40).double()
    for actual, output in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(actual, output, rtol=1e-9, atol=1e-9)
    for actual, output in zip(copy.deepcopy(folded).float()(x.float()), copy.deepcopy(model).float()(x.float()), strict=True):
        assert (actual - output).abs().max() < 1e-4 * output.abs().max()
    assert list(folded.state_dict()) == names and not any('pos_embed' in name for name in names)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    mixer = folded.stages[0][0].token_mixer
    assert isinstance(mixer.large, DepthwiseConv2d) == (deploy == 'plain')
    # A center of 3 does not contain the small kernel of 5.
    assert (mixer.small is not None) == (deploy == 'grid' and options in (dict(center_size=3), STRIPES))
    built = PeLK(SMALL, layer_scale_init_value=1.0, deploy=deploy, **options).eval().double()
    built.load_state_dict(folded.state_dict())
    for actual, output in zip(built(x), folded(x), strict=True):
        assert torch.equal(actual, output)


def test_deploy_rejects_invalid_arguments():
    with pytest.raises(ValueError, match='only a BatchNorm with running statistics'):
        PeLK(SMALL, norm_cfg=dict(type='GN', num_groups=1)).switch_to_deploy()
    with pytest.raises(ValueError, match="deploy must be None, 'plain', or 'grid', got True"):
        PeLK(SMALL, deploy=True)
    with pytest.raises(ValueError, match='init_cfg cannot load'):
        PeLK(SMALL, deploy='grid', init_cfg=dict(type='Pretrained', checkpoint='x.pth'))


def test_deploy_rejects_a_term_that_depends_on_the_position():
    with pytest.raises(ValueError, match="pos_embed_mode='inside'"):
        PeLK(SMALL, pos_embed_mode='inside').switch_to_deploy()


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = PeLK(SMALL, frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    sum(output.square().mean() for output in model(torch.randn(2, 3, 32, 32))).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = () if frozen_stages < 0 else ('downsample_layers.0.',)
    for i in range(frozen_stages):
        frozen += f'downsample_layers.{i}.', f'stages.{i}.'
    assert not any(name.startswith(frozen) for name in changed if frozen)
    assert any(name.startswith('stages.3.') for name in changed) == (frozen_stages < 4)


def test_norm_eval_keeps_the_statistics():
    model = PeLK(SMALL, norm_eval=True).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    assert model.training and model.stages[0][0].token_mixer.small_norm.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_drop_path_rises_over_the_blocks():
    model = PeLK(SMALL, drop_path_rate=0.5)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, *([torch.float16] if TORCH >= (2, 3) else [])]
)  # in older versions, CPUs support only bfloat16
def test_autocast(dtype):
    model = PeLK(SMALL, layer_scale_init_value=1.0)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    with torch.autocast('cpu', dtype=dtype):
        outputs = model(x)
    sum(output.float().square().mean() for output in outputs).backward()
    for output, reference in zip(outputs, expected, strict=True):
        assert (output - reference).abs().max() < 0.15 * reference.abs().max()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_explicit_grids_and_centers_per_stage():
    model = PeLK(SMALL, center_size=(7, 5, 5, 3))
    assert [grid.half.count(1) for grid in model.grids] == [4, 3, 3, 2]
    model = PeLK(SMALL, sharing_grids=[[8, 4, 2, 1, 1, 1]] * 4)
    assert [grid.kernel_size for grid in model.grids] == [33] * 4


@pytest.mark.parametrize('scope', ['mmengine', 'mmseg', 'mmdet', 'mmpretrain'])
def test_builds_under_every_scope(scope):
    from mmengine.registry import MODELS, DefaultScope

    if scope == 'mmpretrain':
        pytest.importorskip('torchvision', reason='mmpretrain needs torchvision')
    if scope == 'mmdet':
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    with DefaultScope.overwrite_default_scope(scope):
        assert isinstance(MODELS.build(dict(type='PeLK', arch=SMALL)), PeLK)


FLAGS = ('use_grn', 'gap_before_final_norm', 'norm_eval', 'with_cp')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='huge'), "arch must be one of .*'tiny'.* got 'huge'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "a dict with 'depths' and 'channels', got"),
        (dict(arch=dict(depths=(1, 1), channels=(8, 8, 8, 8))), r"arch\['depths'\] needs 4 entries, one per stage, got \(1, 1\)"),
        (dict(kernel_sizes=(51, 49, 47)), r'kernel_sizes needs 4 entries, one per stage, got \(51, 49, 47\)'),
        (dict(kernel_sizes=(51, 49, 48, 13)), 'kernel_size must be a positive odd integer, got 48'),
        (dict(center_size=(5, 5)), r'center_size needs 4 entries, one per stage, got \(5, 5\)'),
        (dict(sharing_grids=[[2, 1]]), 'sharing_grids needs 4 entries'),
        (dict(small_kernel=15), 'at most the smallest kernel 13, got 15'),
        (dict(small_kernel=4), 'small_kernel must be None or odd .* got 4'),
        (dict(pos_embed='all'), "pos_embed must be 'shared', 'per_channel', or None, got 'all'"),
        (dict(pos_embed_mode='edge'), "pos_embed_mode must be one of .* got 'edge'"),
        (dict(conv_ratio=0), 'conv_ratio must be in .* got 0'),
        (dict(drop_path_rate=1.5), 'drop_path_rate must be in .* got 1.5'),
        (dict(out_indices=3), 'out_indices must be stages from 0 to 3, got 3'),
        (dict(out_indices=(1, 1)), r'out_indices must be different stages, got \(1, 1\)'),
        (dict(arch=dict(depths=(1, 1, 1, 0), channels=(8,) * 4)), r"arch\['depths'\] must contain positive integers, got"),
        (dict(width_factor=float('nan')), 'width_factor must be a number that leaves at least one channel, got nan'),
        (dict(width_factor=0.001), 'width_factor must be a number that leaves at least one channel'),
        (dict(in_channels=1.5), 'in_channels must be a positive integer, got 1.5'),
        (dict(sharing_grids=[1, 1, 1, 1]), r'sharing_grids must contain half grids such as .* got \[1, 1, 1, 1\]'),
        (dict(kernel_form='stripe', kernel_sizes=(4, 5, 5, 5)), r'got 4 \(kernel_sizes=\(4, 5, 5, 5\)'),
        (dict(small_kernel='five'), "small_kernel must be None or odd .* got 'five'"),
        (dict(small_kernel=True), 'small_kernel must be None or odd .* got True'),
        (dict(frozen_stages=1.0), 'frozen_stages must be an integer between -1 and 4, got 1.0'),
        (dict(layer_scale_init_value=float('nan')), 'layer_scale_init_value must be a number of at least 0, got nan'),
        (dict(layer_scale_init_value=-1), 'layer_scale_init_value must be a number of at least 0, got -1'),
        (dict(drop_path_rate='high'), "drop_path_rate must be in .* got 'high'"),
        (dict(conv_ratio=float('nan')), 'conv_ratio must be in .* got nan'),
        (dict(norm_cfg=3), "norm_cfg must be None or a dict with a 'type', got 3"),
        *((dict({name: 'maybe'}), f"{name} must be True or False, got 'maybe'") for name in FLAGS),
        (dict(out_indices=(4,)), r'out_indices must be stages from 0 to 3, got \(4,\)'),
        (dict(frozen_stages=5), 'frozen_stages must be an integer between -1 and 4, got 5'),
        (dict(backend='cutlass'), "backend must be one of .* got 'cutlass'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        PeLK(**options)


def test_input_below_32_is_rejected():
    with pytest.raises(ValueError, match='at least 32x32, got 31x64'):
        PeLK(SMALL)(torch.zeros(1, 3, 31, 64))


@pytest.mark.parametrize(
    'options',
    [{}, K101, dict(pos_embed='per_channel'), dict(kernel_form='dense', kernel_sizes=(13, 11, 9, 7)), dict(pos_embed=None)],
)
def test_branches_fold_in_eval_mode(options, monkeypatch):
    model, image = randomized(**options).eval(), torch.randn(2, 3, 70, 64)
    assert all(block.token_mixer._is_one_convolution(stage.pos_embed) for stage in model.stages for block in stage)
    folded = model(image)
    monkeypatch.setattr(TokenMixer, '_is_one_convolution', lambda self, pos_embed: False)
    for one, other in zip(folded, model(image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'options, stages',
    [
        (dict(sharing_grids=[[4, 4, 3], [9, 8, 4, 2, 1, 1, 1], [1, 1, 2, 4, 8, 1], [2, 2, 1, 1, 1]]), [False, True, False, True]),
        (dict(pos_embed_mode='inside'), [False] * 4),
        (dict(kernel_form='stripe', pos_embed=None), [False] * 4),
    ],
)
def test_branches_that_do_not_fold(options, stages):
    model = randomized(**options)
    assert not any(block.token_mixer._is_one_convolution(stage.pos_embed) for stage in model.stages for block in stage)
    assert [stage[0].token_mixer._is_one_convolution(stage.pos_embed) for stage in model.eval().stages] == stages


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_memory_formats(mode):
    model, image = getattr(randomized(), mode)(), torch.randn(2, 3, 64, 96)
    outputs = model(image)
    assert all(output.is_contiguous() for output in outputs)
    for one, other in zip(model(image.contiguous(memory_format=torch.channels_last)), outputs, strict=True):
        assert one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_compiles_to_one_graph(mode):
    model, image = getattr(randomized(), mode)(), torch.randn(2, 3, 64, 96)
    compiled = torch.compile(model, fullgraph=TORCH >= (2, 4), backend='aot_eager')  # torch 2.1 breaks the graph
    for one, other in zip(compiled(image), model(image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    sum(output.square().mean() for output in compiled(image)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_copied_and_pickled_models_compute_the_same():
    model, image = randomized().eval(), torch.randn(1, 3, 64, 64)
    keys = set(model.state_dict())
    before = model(image)[-1]
    assert set(model.state_dict()) == keys
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double().float()):
        assert torch.equal(other(image)[-1], before)
    with torch.no_grad():
        model.stages[0][0].token_mixer.large.weight.mul_(2)
    assert not torch.equal(model(image)[-1], before)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('arch, last_stage', [('tiny', 6), ('small', 12)])
def test_layer_depths_are_those_of_convnext(arch, last_stage, prefix):
    convnext = pytest.importorskip('mmpretrain.models').ConvNeXt
    arch = dict(depths=PeLK.arch_settings[arch]['depths'], channels=(8, 8, 8, 8))
    theirs, ours = convnext(arch), PeLK(arch)
    depths = {name: theirs.get_layer_depth(name, prefix) for name in names_with(prefix, theirs)}
    shared = depths.keys() & names_with(prefix, ours)
    # The depthwise convolutions have other names, and only the last stage of ConvNeXt has a norm.
    assert len(shared) >= 7 * sum(ours.depths) and f'{prefix}norm3.weight' in shared
    assert {name: ours.get_layer_depth(name, prefix) for name in shared} == {name: depths[name] for name in shared}
    assert {depth for depth, _ in depths.values()} == set(range(last_stage + 2))
    for stage, block in ((0, 2), (2, 8), (3, 0)):
        mixer = f'{prefix}stages.{stage}.{block}.token_mixer.large.weight'
        assert ours.get_layer_depth(mixer, prefix) == depths[f'{prefix}stages.{stage}.{block}.gamma']
    assert ours.get_layer_depth('head.fc.weight', 'backbone.') == (last_stage + 1, last_stage + 2)


def names_with(prefix, model):
    return {prefix + name for name, _ in model.named_parameters()}


def test_layer_decay_of_mmpretrain():
    """LearningRateDecayOptimWrapperConstructor gives each group of a classifier the learning rate of its depth."""
    constructors = pytest.importorskip('mmpretrain.engine.optimizers')
    from mmpretrain.models import ImageClassifier

    model = ImageClassifier(
        backbone=dict(type='PeLK', arch=dict(depths=(1, 1, 4, 1), channels=(8, 8, 8, 8)), out_indices=(3,)),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=10),
    )
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    build = constructors.LearningRateDecayOptimWrapperConstructor(wrapper, dict(layer_decay_rate=0.5))
    groups = {group['param_name']: group for group in build(model).optimizer.param_groups}
    assert groups.keys() == dict(model.named_parameters()).keys()
    expected = {
        'backbone.downsample_layers.0.0.weight': 0,
        'backbone.stages.0.0.token_mixer.large.weight': 1,
        'backbone.stages.0.0.token_mixer.pos_embed.bias': 1,
        'backbone.downsample_layers.1.1.weight': 2,
        'backbone.stages.1.0.gamma': 2,
        'backbone.stages.2.2.token_mixer.small_norm.bias': 3,
        'backbone.stages.2.3.pointwise_conv1.weight': 4,
        'backbone.stages.3.0.norm.weight': 6,
        'backbone.norm3.weight': 7,
        'head.fc.weight': 7,
    }
    assert {name: groups[name]['lr'] for name in expected} == {name: 0.5 ** (7 - depth) for name, depth in expected.items()}


def test_layer_decay_of_mmdet():
    """LearningRateDecayOptimizerConstructor puts the parameters into the groups of a ConvNeXt."""
    pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    from mmdet.engine.optimizers import LearningRateDecayOptimizerConstructor
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / 'cascade_mask_rcnn_pelk_s_coco.py')
    cfg.model.backbone.arch = dict(depths=(3, 3, 27, 3), channels=(8, 8, 8, 8))
    cfg.model.neck.in_channels = [10] * 4
    model = MODELS.build(cfg.model)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    optimizer = LearningRateDecayOptimizerConstructor(wrapper, dict(decay_rate=0.5, decay_type='layer_wise', num_layers=12))(
        model
    )
    groups = {name: group for group in optimizer.optimizer.param_groups for name in group['param_names']}
    assert set(groups) == {name for name, _ in model.named_parameters()}

    def layer(name):
        return 13 + round(math.log2(groups[name]['lr']))

    blocks = [(0, 0, 1), (0, 2, 1), (1, 0, 2), (2, 0, 3), (2, 3, 4), (2, 26, 11), (3, 0, 12)]
    for stage, block, expected in blocks:
        for part in ('token_mixer.large.weight', 'token_mixer.small.weight', 'norm.bias', 'gamma', 'pointwise_conv2.weight'):
            assert layer(f'backbone.stages.{stage}.{block}.{part}') == expected
    assert [layer(f'backbone.stages.{stage}.0.token_mixer.pos_embed.bias') for stage in range(4)] == [1, 2, 3, 12]
    assert [layer(f'backbone.downsample_layers.{i}.{0 if i == 0 else 1}.weight') for i in range(4)] == [0, 2, 3, 12]
    assert layer('roi_head.mask_head.0.conv_logits.weight') == 13
    for name, parameter in model.named_parameters():
        exempt = name.endswith('.bias') or parameter.ndim == 1  # biases, which include h, norms, and layer scales
        assert groups[name]['weight_decay'] == (0 if exempt else 0.05), name
