"""Smaller steps for the shared weights of grown kernels: the function for torch, and the hook for mmengine."""

import re

import pytest
import torch
from conftest import CONFIGS
from torch import nn

from mmpelk.checkpoints import read_checkpoint
from mmpelk.models import grow_kernels, scale_shared_steps


def grown_conv(size=15):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 7, padding=3, groups=3), nn.Identity())
    grow_kernels(model, size)
    return model


def step(model, optimizer):
    model(torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize('optimizer', [torch.optim.AdamW, torch.optim.SGD])
def test_a_step_is_divided_by_the_root_of_the_number_of_taps(optimizer):
    plain, scaled = grown_conv(), grown_conv()
    before = plain[0].weight.detach().clone()
    optimizers = [optimizer(model.parameters(), lr=1e-3) for model in (plain, scaled)]
    scale_shared_steps(scaled, optimizers[1])
    for model, each in zip((plain, scaled), optimizers, strict=True):
        step(model, each)
    sizes = [2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 2]  # of the cells of a 15x15 kernel with a center of 7x7
    areas = torch.tensor([[float(rows * columns) for columns in sizes] for rows in sizes])
    moved, shrunk = (model[0].weight.detach() - before for model in (plain, scaled))
    assert moved.abs().min() > 0
    torch.testing.assert_close(shrunk, moved / areas**0.5)
    assert torch.equal(plain[0].bias, scaled[0].bias)


def test_adamw_moves_the_weights_as_if_they_were_stored_times_the_root():
    """Compare several steps with steps computed by hand for the other form of the weights: w = v / sqrt(A), with v in the optimizer."""
    model = grown_conv().double()
    root = model[0].grid.areas().double().sqrt()
    stored = nn.Parameter(model[0].weight.detach() * root)
    other = torch.optim.AdamW([stored], lr=1e-3, weight_decay=0.0, eps=0.0)
    mine = torch.optim.AdamW([model[0].weight], lr=1e-3, weight_decay=0.0, eps=0.0)
    scale_shared_steps(model, mine)
    x = torch.rand(2, 3, 20, 20, dtype=torch.float64)
    kernel = model[0]
    for _ in range(4):
        kernel(x).square().sum().backward()
        mine.step()
        mine.zero_grad()
        expanded = kernel.grid.expand(stored / root)
        pad = expanded.shape[-1] // 2
        nn.functional.conv2d(x, expanded, kernel.bias, padding=pad, groups=3).square().sum().backward()
        other.step()
        other.zero_grad()
    torch.testing.assert_close(kernel.weight.detach(), stored.detach() / root)


def test_removed_handles_and_other_optimizers():
    plain, model = grown_conv(), grown_conv()
    optimizers = [torch.optim.SGD(each.parameters(), lr=1e-3) for each in (plain, model)]
    scale_shared_steps(model, optimizers[1]).remove()
    for each, optimizer in zip((plain, model), optimizers, strict=True):
        step(each, optimizer)
    assert torch.equal(plain[0].weight, model[0].weight)
    with pytest.raises(ValueError, match='the SGD has no grown kernel of the model; build it after grow_kernels'):
        scale_shared_steps(model, torch.optim.SGD([model[0].bias], lr=1))
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match='no grown kernel'):
        scale_shared_steps(model, optimizers[1])


def test_the_hook_in_a_config(run_tool, fail_tool, digit_scenes):
    """Train for two iterations with and without the hook. After the first, the steps of shared weights differ by the root of their taps."""
    config = digit_scenes / 'grown.py'
    config.write_text(
        f"_base_ = '{CONFIGS}/demo/upernet_convnext_atto_grown_digits.py'\nmodel = dict(backbone=dict(kernel_sizes=15))\n"
    )
    options = (
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=9',
    )
    hook = 'custom_hooks.0.type=SharedStepsHook'
    weights = {}
    for name, more in (('plain', ()), ('scaled', (hook,))):
        run_tool('train.py', config, '--work-dir', name, '--cfg-options', *options, *more, cwd=digit_scenes)
        weights[name] = read_checkpoint(digit_scenes / name / 'iter_1.pth')['state_dict']
    name = next(key for key in weights['plain'] if re.search(r'stages\.0\.0\.depthwise_conv\.weight$', key))
    plain, scaled = (weights[run][name] for run in ('plain', 'scaled'))
    # The corner of a 15x15 kernel is one weight for 2x2 taps, which started at 0.
    assert plain[:, 0, 0, 0].abs().min() > 0
    torch.testing.assert_close(scaled[:, 0, 0, 0], plain[:, 0, 0, 0] / 2)
    message = fail_tool(
        'train.py', f'{CONFIGS}/demo/upernet_convnext_atto_digits.py', '--cfg-options', *options, hook, cwd=digit_scenes
    )
    assert "SharedStepsHook needs backbone=dict(type='GrownBackbone', ...)" in message
