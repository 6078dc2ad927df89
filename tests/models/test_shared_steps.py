"""Smaller steps for the shared weights of grown kernels."""

import pytest
import torch
from torch import nn

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
