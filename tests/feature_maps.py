"""Compare all feature maps of two models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def all_outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a model and return the output of every module that returns a tensor, by name."""
    outputs: dict[str, Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: outputs.update({name: output}) if isinstance(output, Tensor) else None

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    model(x)
    for hook in hooks:
        hook.remove()
    return outputs


def check_equal(outputs: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Assert that all outputs are equal, relative to the largest value of each."""
    assert set(outputs) == set(expected) and expected
    for name, value in expected.items():
        difference = (outputs[name] - value).abs().max() / value.abs().max()
        assert difference < tolerance, f'{name}: {difference}'


@torch.no_grad()
def randomize_constants(model: nn.Module) -> nn.Module:
    """Give random values to the parameters that are constant in a new model, such as layer scales of 1e-6 and GRN's zeros."""
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.min() == parameter.max():
            parameter.uniform_(0.5, 1.5)
    return model.eval()
