"""Grow the kernels of models that consist of torch's own modules."""

import copy
import pickle
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from feature_maps import all_outputs, check_equal
from torch import nn

from mmpelk.models import GrownConv2d, grow_kernels, growing, switch_to_deploy
from mmpelk.ops import PeripheralConv2d, SharingGrid

TORCH_ALONE = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'timm', 'transformers', 'numpy', 'cv2'):
    sys.modules[name] = None  # importing it fails
import torch
from torch import nn
from mmpelk.models.growing import grow_kernels
import mmpelk.models
model = nn.Sequential(nn.Conv2d(2, 2, 7, padding=3, groups=2), nn.ReLU())
x = torch.randn(1, 2, 20, 20)
before, weights = model(x), model.state_dict()
assert mmpelk.models.grow_kernels is grow_kernels
print(len(grow_kernels(model, 51).grown), (model(x) - before).abs().max() < 1e-5, hasattr(mmpelk.models, 'PeLK'))
weights['0.weight'] = torch.randn(2, 1, 31, 31)
print(model.load_state_dict(weights), model)
"""


def depthwise(channels, kernel=7, **options):
    return nn.Conv2d(channels, channels, kernel, **{'padding': kernel // 2, 'groups': channels, **options})


@pytest.fixture
def logged(monkeypatch):
    """Return the lines that loading logs."""
    lines = []
    monkeypatch.setattr(growing, '_log', lines.append)
    return lines


class Block(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        self.dwconv = depthwise(channels, kernel)
        self.mlp = nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * channels, 1), nn.GELU())
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        return x + self.out(self.mlp(self.dwconv(x)))


def small_model(kernels=(7, 7), widths=(4, 6)):
    stages, before = [], 3
    for kernel, width in zip(kernels, widths, strict=True):
        down = nn.Conv2d(before, width, 2, stride=2, padding=1)
        stages.append(nn.Sequential(down, Block(width, kernel), Block(width, kernel)))
        before = width
    return nn.Sequential(*stages).eval()


@pytest.mark.parametrize('kernel_sizes', [51, 101, (101, 13)])
@pytest.mark.parametrize('size', [(1, 1), (5, 9), (33, 64)])
def test_outputs_stay_equal_at_every_module(size, kernel_sizes):
    model = small_model()
    x = torch.randn(2, 3, *size)
    expected = all_outputs(model, x)
    grow_kernels(model, kernel_sizes)
    check_equal(all_outputs(model, x), expected)
    kernels = [module for module in model.modules() if isinstance(module, PeripheralConv2d)]
    assert len(kernels) == 4 and kernels[0].weight.shape[-1] > 7
    assert kernels[-1].kernel_size == ((13, 13) if isinstance(kernel_sizes, tuple) else (kernel_sizes,) * 2)


def test_the_periphery_is_trained():
    model = small_model().train()
    grow_kernels(model, 51)
    model(torch.randn(2, 3, 128, 128)).square().mean().backward()
    assert all((module.weight.grad != 0).all() for module in model.modules() if isinstance(module, GrownConv2d))


def test_what_is_kept():
    frozen = depthwise(4, bias=False).requires_grad_(False)
    model = nn.ModuleDict(dict(frozen=frozen, bf16=depthwise(4).to(torch.bfloat16), meta=depthwise(4, device='meta')))
    model['frozen'].eval()
    bias, names = model['bf16'].bias, list(model.state_dict())
    grow_kernels(model, 21)
    assert not model['frozen'].training and not model['frozen'].weight.requires_grad and model['frozen'].bias is None
    assert model['bf16'].training and model['bf16'].weight.requires_grad and model['bf16'].bias is bias
    assert model['bf16'].weight.dtype == torch.bfloat16 and model['bf16'].half_grid.dtype == torch.int64
    assert {value.device.type for value in model['meta'].state_dict().values()} == {'meta'}
    assert [name for name in model.state_dict() if not name.endswith('half_grid')] == names


def test_growing_draws_no_random_numbers():
    model = small_model()
    state = torch.get_rng_state()
    grow_kernels(model, 51)
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_in_every_form():
    forms = nn.Sequential(depthwise(4, padding=3), depthwise(4, padding=(3, 3)), depthwise(4, padding='same'))
    assert len(grow_kernels(forms, 21).grown) == 3


class OwnConv(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    'conv, reason',
    [
        (depthwise(4, stride=2), r'its stride is \(2, 2\)'),
        (depthwise(4, dilation=2, padding=6), r'its dilation is \(2, 2\)'),
        (depthwise(4, padding=2), r'its padding is \(2, 2\) \(zeros\)'),
        (depthwise(4, padding='valid'), "its padding is 'valid'"),
        (depthwise(4, padding_mode='circular'), r'its padding is \(3, 3\) \(circular\)'),
        (depthwise(4, kernel=6, padding='same'), 'its kernel is 6x6, not square and odd'),
        (nn.Conv2d(4, 4, (7, 5), padding=(3, 2), groups=4), 'its kernel is 7x5, not square and odd'),
        (nn.Conv2d(4, 8, 7, padding=3, groups=4), 'not depthwise'),
        (nn.Conv2d(4, 4, 7, padding=3, groups=2), 'not depthwise'),
        (OwnConv(4, 4, 7, padding=3, groups=4), 'OwnConv is not a plain nn.Conv2d'),
    ],
)
def test_what_is_left(conv, reason):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv, depthwise(4))
    growth = grow_kernels(model, 51)
    assert list(growth.grown) == ['2'] and list(growth.left) == ['1'] and model[1] is conv
    assert re.match(reason, growth.left['1'])
    with pytest.raises(ValueError, match=rf'Sequential has no kernel to grow: .* found 1 convolutions \(1: {reason}'):
        grow_kernels(nn.Sequential(conv), 51)


def test_hooks_are_not_lost():
    model = nn.Sequential(depthwise(4), depthwise(4))
    model[0].register_forward_hook(lambda *_: None)
    assert grow_kernels(model, 51).left == {'0': 'it has hooks, which would be lost'}


def test_nothing_to_grow():
    for model in (nn.Linear(2, 3), nn.Sequential(nn.Conv2d(3, 3, 1)), depthwise(4)):
        with pytest.raises(ValueError, match='has no kernel to grow: .*found no convolution larger than 1x1'):
            grow_kernels(model, 51)
    model = small_model()
    grow_kernels(model, 51)
    with pytest.raises(ValueError, match='has no kernel to grow'):
        grow_kernels(model, 101)


def test_a_module_with_two_names_stays_one_module():
    model = nn.Sequential(depthwise(4))
    model.append(model[0])
    growth = grow_kernels(model, 21)
    assert model[0] is model[1] and isinstance(model[0], GrownConv2d) and len(growth.grown) == 2


def test_sizes_by_stage_and_by_name():
    model = small_model(kernels=(7, 9))
    growth = grow_kernels(model, [51, 9])
    assert {name: kernel.new for name, kernel in growth.grown.items()} == {'0.1.dwconv': 51, '0.2.dwconv': 51}
    assert growth.left['1.1.dwconv'] == 'its kernel has size 9 already' and growth.left['0.0'] == 'not depthwise'
    assert type(model[1][1].dwconv) is nn.Conv2d

    model = small_model()
    growth = grow_kernels(model, {'1': 13, '1.2': 21, '0.1.dwconv': 51})
    assert {name: kernel.new for name, kernel in growth.grown.items()} == {
        '0.1.dwconv': 51,
        '1.1.dwconv': 13,
        '1.2.dwconv': 21,
    }
    assert growth.left['0.2.dwconv'] == 'not named in kernel_sizes'


@pytest.mark.parametrize(
    'sizes, message',
    [
        (50, 'kernel_sizes must be odd and at least 7, the old kernel size of 0.1.dwconv, got 50'),
        (5, 'at least 7, .* got 5'),
        (51.0, 'got 51.0'),
        (True, 'got True'),
        ('51', "got '51'"),
        ((51, 12), 'old kernel size of 1.1.dwconv, got 12'),
        ((51,), r'one size for each of the 2 stages \(of 4, 6 channels\), got 1: \(51,\)'),
        ((51, 49, 47, 13), 'each of the 2 stages .* got 4'),
        (
            {'0': 51, 'stages': 13},
            "kernel_sizes names 'stages', but the model has no kernel to grow there; its kernels are '0.1.dwconv'",
        ),
        ({'0.1.dw': 51}, "kernel_sizes names '0.1.dw'"),
    ],
)
def test_wrong_sizes_leave_the_model_as_it_was(sizes, message):
    model = small_model()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        grow_kernels(model, sizes)
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match='backend'):
        grow_kernels(model, 51, backend='none')


def test_a_checkpoint_from_before_grows_while_it_loads(logged):
    trained, model = small_model(), small_model()
    grow_kernels(model, 51)
    weights = trained.state_dict()
    names = list(weights)
    assert str(model.load_state_dict(weights)) == '<All keys matched successfully>'
    x = torch.randn(1, 3, 40, 40)
    check_equal({'': model(x)}, {'': trained(x)})
    assert not model[0][1].dwconv.weight[..., 0, 0].any() and list(weights) == names
    assert logged == []  # resizing is exact


def test_a_checkpoint_of_other_grids_is_resized(logged):
    trained, model = small_model(), small_model()
    grow_kernels(trained, 51)
    for module in trained.modules():
        if isinstance(module, GrownConv2d):
            nn.init.normal_(module.weight)
    grow_kernels(model, 101, base=3)
    model.load_state_dict(trained.state_dict())
    old, new = SharingGrid.peripheral(51, 7), SharingGrid.peripheral(101, 7, 3)
    assert len(logged) == 4 and logged[0].startswith(
        f'0.1.dwconv.weight: 51x51 kernel (half grid {list(old.half)}) resized to 101x101 (half grid {list(new.half)}), which changes'
    )
    assert torch.equal(model[0][1].dwconv.weight[..., 3:10, 3:10], trained[0][1].dwconv.weight[..., 4:11, 4:11])
    assert tuple(model[0][1].dwconv.half_grid) == new.half

    again = small_model()
    grow_kernels(again, 51)
    again.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())


def test_checkpoints_that_do_not_fit_are_refused():
    model = small_model()
    weights = model.state_dict()
    grow_kernels(model, 51)
    grown = model.state_dict()
    name = '0.1.dwconv.weight'
    for broken, message in (
        ({**weights, name: weights[name][:2]}, 'size mismatch for 0.1.dwconv.weight'),
        ({**weights, name: weights[name][..., :6, :6]}, 'size mismatch for 0.1.dwconv.weight'),
        ({**grown, '0.1.dwconv.half_grid': torch.tensor([40, 9, 1])}, '0.1.dwconv.weight: weight must have shape'),
        ({**grown, name: weights[name]}, 'size mismatch for 0.1.dwconv.weight'),
        ({**grown, '0.1.dwconv.half_grid': torch.tensor([4, 2])}, '0.1.dwconv.weight: .* must be odd'),
        ({key: value for key, value in weights.items() if key != name}, 'Missing key.*"0.1.dwconv.weight". $'),
    ):
        with pytest.raises(RuntimeError, match=message):
            small = copy.deepcopy(model)
            small.load_state_dict(broken)


def test_plain_convolutions_again():
    model, x = small_model(), torch.randn(1, 3, 40, 30)
    grow_kernels(model, (51, 13))
    for module in model.modules():
        if isinstance(module, GrownConv2d):
            nn.init.normal_(module.weight, std=0.01)
    model[0][1].dwconv.requires_grad_(False)
    expected = all_outputs(model, x)
    assert switch_to_deploy(model) == 4
    check_equal(all_outputs(model, x), expected)
    assert {type(block.dwconv) for stage in model for block in stage[1:]} == {nn.Conv2d}
    assert model[0][1].dwconv.weight.shape == (4, 1, 51, 51) and not model[0][1].dwconv.weight.requires_grad
    assert not model[0][1].dwconv.training and model[0][2].dwconv.weight.requires_grad
    assert switch_to_deploy(model) == 0


def test_copies_and_pickles():
    model, x = small_model(), torch.randn(1, 3, 9, 9)
    grow_kernels(model, 51)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x))


def test_the_report():
    growth = grow_kernels(small_model(), (51, 13))
    assert repr(growth).splitlines() == [
        '4 kernels grown, 2 convolutions unchanged',
        '  0.1.dwconv ... 0.2.dwconv (2): 7x7 -> 51x51, 4 channels',
        '  1.1.dwconv ... 1.2.dwconv (2): 7x7 -> 13x13, 6 channels',
        '  0.0 ... 1.0 (2): not depthwise',
    ]


def test_growing_needs_only_torch():
    result = subprocess.run([sys.executable, '-c', TORCH_ALONE], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == '1 tensor(True) False' and lines[1].startswith('<All keys matched successfully>')
    assert '0.weight: 31x31 kernel' in result.stderr and 'which changes it by' in result.stderr
