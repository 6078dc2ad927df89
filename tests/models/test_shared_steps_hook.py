"""The steps of grown kernels while mmengine trains. tests/models/test_shared_steps.py compares more of them."""

import pytest
import torch
from tiny_runner import Tiny, runner
from torch import nn

from mmpelk.models import grow_kernels
from mmpelk.utils.errors import InputError


class Grown(Tiny):
    """A depthwise convolution of a fixed image, whose kernel grows from 7x7 to 15x15."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Conv2d(3, 3, 7, padding=3, groups=3)
        grow_kernels(self, 15)
        self.image = torch.rand(1, 3, 20, 20)

    def forward(self, x, mode):
        return dict(loss=self.linear(self.image).square().sum())


def train(work_dir, hooks):
    """Train for one step, and return the model, its optimizer, and the change of its kernel."""
    run = runner(work_dir, epochs=1, model=Grown())
    for hook in hooks:
        run.register_hook(dict(type=hook))
    before = run.model.linear.weight.detach().clone()
    run.train()
    return run.model, run.optim_wrapper.optimizer, run.model.linear.weight.detach() - before


def test_steps_are_scaled_until_training_ends(tmp_path):
    _, _, plain = train(tmp_path / 'plain', [])
    model, optimizer, scaled = train(tmp_path / 'scaled', ['SharedStepsHook'])
    assert plain.abs().min() > 0 and plain[0, 0, 0, 0] != scaled[0, 0, 0, 0]
    torch.testing.assert_close(scaled, plain / model.linear.grid.areas().to(plain).sqrt())
    before = model.linear.weight.detach().clone()
    model.linear.weight.grad = torch.ones_like(before)
    optimizer.step()
    torch.testing.assert_close(model.linear.weight.detach(), before - optimizer.param_groups[0]['lr'])


def test_a_model_without_grown_kernels_is_refused(tmp_path):
    run = runner(tmp_path, epochs=1)
    run.register_hook(dict(type='SharedStepsHook'))
    with pytest.raises(
        InputError, match=r"SharedStepsHook needs backbone=dict\(type='GrownBackbone', ...\): the SGD has no grown"
    ):
        run.train()
