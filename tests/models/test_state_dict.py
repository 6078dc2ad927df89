import copy
import re

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmpelk.models import PeLK
from mmpelk.models.state_dict import resize_stages
from mmpelk.ops import SharingGrid, resize_pos_embed, resize_weight
from mmpelk.utils.errors import InputError

SMALL = dict(arch=dict(depths=(2, 1, 1, 1), channels=(16, 16, 24, 24)), layer_scale_init_value=1.0)
K101 = dict(kernel_sizes=(101, 69, 67, 13), center_size=7)


def trained(**options):
    """Return a model with nontrivial statistics and embeddings."""
    model = PeLK(**SMALL, **options).eval()
    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            nn.init.uniform_(value, 0.5, 2)
        elif 'pos_embed' in name or name.endswith('running_mean'):
            nn.init.normal_(value)
    return model


def outward(model, sizes):
    return [grid.extended(k).half for grid, k in zip(model.grids, sizes, strict=True)]


def error(model, x, expected):
    with torch.no_grad():
        outputs = model(x)
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize('pos_embed', ['shared', 'per_channel', None])
def test_growing_outward_keeps_the_outputs(pos_embed):
    model = trained(pos_embed=pos_embed)
    x = torch.randn(1, 3, 160, 96)
    expected = [output.detach() for output in model(x)]
    larger = PeLK(**SMALL, pos_embed=pos_embed, sharing_grids=outward(model, (101, 69, 67, 13))).eval()
    larger.load_state_dict(model.state_dict())  # resizes on loading
    assert error(larger, x, expected) < 1e-5
    model.resize_kernels(sharing_grids=outward(model, (101, 69, 67, 13)))
    assert error(model, x, expected) < 1e-5
    assert [grid.kernel_size for grid in model.grids] == [101, 69, 67, 13]
    for (name, a), b in zip(model.state_dict().items(), larger.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
def test_loading_and_resizing_in_place_agree(mode):
    model = trained()
    other = PeLK(**SMALL, **K101, resize_mode=mode)
    load_state_dict(other, model.state_dict())  # mmengine's
    model.resize_kernels(**K101, mode=mode)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert model.stages[0][0].token_mixer.large.half_grid.tolist() == [17, 16, 8, 4, 2, 1, 1, 1, 1]


def test_each_resized_stage_is_reported():
    weights = trained().state_dict()
    lines = PeLK(**SMALL, **K101).fit_kernels(dict(weights))
    assert len(lines) == 4  # the last stage keeps its size but not its center
    assert lines[0].startswith('stage 1: kernels 51x51 (half grid [9, 8, 4, 2, 1, 1, 1]) resized to 101x101 (half grid [17, 16,')
    assert re.search(r"mode 'extend', which changes the kernels by up to \d+\.\d%$", lines[0])
    outward_lines = PeLK(**SMALL, sharing_grids=outward(PeLK(**SMALL), (101, 69, 67, 15))).fit_kernels(dict(weights))
    assert len(outward_lines) == 4 and all(line.endswith("mode 'extend', exact") for line in outward_lines)
    stretched = PeLK(**SMALL, **K101, resize_mode='stretch').fit_kernels(dict(weights))
    assert stretched[0].endswith("mode 'stretch'")
    on_meta = {name: value if name.endswith('half_grid') else value.to('meta') for name, value in weights.items()}
    assert PeLK(**SMALL, **K101).fit_kernels(on_meta)[0].endswith("mode 'extend'")
    assert PeLK(**SMALL).fit_kernels(dict(weights)) == []


def test_the_same_weight_size_on_another_grid_is_resized():
    """The size k' alone does not determine the grid, so the grid is stored in the checkpoint."""
    model = PeLK(**SMALL, pos_embed=None, sharing_grids=[[4, 2, 1, 1]] * 4)
    other = PeLK(**SMALL, pos_embed=None, sharing_grids=[[3, 3, 1, 1]] * 4)
    other.load_state_dict(model.state_dict())
    weight, before = (m.stages[0][0].token_mixer.large.weight for m in (other, model))
    assert weight.shape == before.shape and not torch.equal(weight, before)
    expected = other.grids[0].reduce(model.grids[0].expand(before))
    torch.testing.assert_close(weight, expected)


def test_loading_from_a_dense_kernel():
    dense = PeLK(**SMALL, kernel_form='dense', kernel_sizes=(13, 13, 13, 13))
    shared = PeLK(**SMALL, kernel_sizes=(13, 13, 13, 13))
    shared.load_state_dict(dense.state_dict())
    grid = SharingGrid.peripheral(13)
    expected = grid.reduce(dense.stages[0][0].token_mixer.large.weight)
    torch.testing.assert_close(shared.stages[0][0].token_mixer.large.weight, expected)


def test_resizing_keeps_frozen_stages_frozen_and_copies():
    model = PeLK(**SMALL, frozen_stages=1)
    twin = copy.deepcopy(model)
    model.resize_kernels(**K101)
    assert not model.stages[0][0].token_mixer.large.weight.requires_grad
    assert model.stages[1][0].token_mixer.large.weight.requires_grad
    assert twin.grids[0].kernel_size == 51 and twin.stages[0][0].token_mixer.large.weight.shape[-1] == 13


def test_invalid_resizing_is_rejected():
    with pytest.raises(ValueError, match='needs kernel_sizes or sharing_grids'):
        PeLK(**SMALL).resize_kernels()
    with pytest.raises(ValueError, match="must be one of .* got 'crop'"):
        PeLK(**SMALL).resize_kernels(**K101, mode='crop')
    with pytest.raises(ValueError, match="must be one of .* got 'crop'"):
        PeLK(**SMALL, resize_mode='crop')
    with pytest.raises(ValueError, match='at most the smallest kernel 3, got 5'):
        PeLK(**SMALL).resize_kernels((51, 49, 47, 3), center_size=3)
    with pytest.raises(ValueError, match='not stripes or kernels that are folded'):
        PeLK(**SMALL, kernel_form='stripe', pos_embed=None).resize_kernels(**K101)
    deployed = PeLK(**SMALL)
    deployed.switch_to_deploy()
    with pytest.raises(ValueError, match='not stripes or kernels that are folded'):
        deployed.resize_kernels(**K101)


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
@pytest.mark.parametrize('pos_embed', ['shared', 'per_channel'])
def test_resized_kernels_are_those_of_resize_weight(pos_embed, mode):
    model = trained(pos_embed=pos_embed)
    before, old = copy.deepcopy(model.state_dict()), model.grids
    model.resize_kernels(**K101, mode=mode)
    new = [SharingGrid.peripheral(k, 7) for k in K101['kernel_sizes']]
    assert model.grids == tuple(new)
    for name, value in model.state_dict().items():
        stage = int(name.split('.')[1]) if name.startswith('stages') else None
        if name.endswith('large.weight'):
            expected = resize_weight(before[name], old[stage], new[stage], mode)
        elif name.endswith('pos_embed.bias'):
            expected = resize_pos_embed(before[name], new[stage].kernel_size, mode)
        elif name.endswith('half_grid'):
            expected = torch.tensor(new[stage].half)
        else:
            expected = before[name]
        assert torch.equal(value, expected), name
    with torch.no_grad():
        assert all(output.isfinite().all() for output in model(torch.randn(1, 3, 64, 64)))


def test_resizing_keeps_dtypes_gradients_and_modes():
    model = trained(frozen_stages=2).to(torch.bfloat16).train()
    model.stages[2][0].token_mixer.pos_embed.bias.requires_grad_(False)
    before = {name: (value.dtype, value.requires_grad) for name, value in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    model.resize_kernels(**K101)
    assert {name: (value.dtype, value.requires_grad) for name, value in model.named_parameters()} == before
    assert before['stages.0.0.token_mixer.large.weight'] == (torch.bfloat16, False)
    assert before['stages.2.0.token_mixer.pos_embed.bias'] == (torch.bfloat16, False)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(value.dtype == torch.int64 for name, value in model.named_buffers() if name.endswith('half_grid'))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_resizing_keeps_the_device():
    model = trained().cuda()
    model.resize_kernels(**K101)
    assert {value.device.type for value in model.state_dict().values()} == {'cuda'}


def test_resize_stages_changes_only_names_under_the_prefix():
    weights = {f'{part}.{name}': value for part in ('teacher', 'student') for name, value in trained().state_dict().items()}
    before = dict(weights)
    grids = resize_stages(weights, lambda index, old: old.extended((101, 69, 67, 15)[index]), 'extend', 'student.')
    assert list(grids) == [f'student.stages.{i}.' for i in range(4)]
    assert [(old.kernel_size, new.kernel_size) for old, new in grids.values()] == [(51, 101), (49, 69), (47, 67), (13, 15)]
    changed = {name for name in weights if weights[name] is not before[name]}
    assert changed and all(name.startswith('student.stages.') for name in changed)
    assert weights['student.stages.3.0.token_mixer.pos_embed.bias'].shape == (1, 15, 15)


def test_resize_stages_names_the_kernel():
    weights = trained().state_dict()
    name = 'stages.1.0.token_mixer.large.weight'
    weights[name] = weights[name][..., :-1]
    with pytest.raises(InputError, match=f'^{name}: '):
        resize_stages(weights, lambda index, old: old.extended(101), 'extend')
