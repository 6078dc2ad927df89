"""Find the backbones with large kernels in a model."""

from __future__ import annotations

from torch import nn

from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d

from .growing import GrownConv2d
from .pelk import PeLK


def large_kernel_backbones(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every PeLK and every backbone with grown kernels in a model, each with the prefix of its parameter names."""
    pelks = [(f'{name}.' if name else '', module) for name, module in model.named_modules() if isinstance(module, PeLK)]
    return pelks + _grown_backbones(model)


def _grown_backbones(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts of a model that have grown kernels, each with the prefix of its parameter names.

    These are the modules named 'backbone' or, if there are none, the model itself.
    """

    def has_grown(module: nn.Module) -> bool:
        return any(isinstance(child, GrownConv2d) for child in module.modules())

    backbones = [
        (f'{name}.', module) for name, module in model.named_modules() if name.split('.')[-1] == 'backbone' and has_grown(module)
    ]
    return backbones or ([('', model)] if has_grown(model) else [])


def depthwise_kernels(backbone: nn.Module) -> list[str]:
    """Return the names of the depthwise kernels that mmpelk evaluates in a backbone."""
    kinds = (PeripheralConv2d, DepthwiseConv2d)
    return [f'{name}.weight' for name, module in backbone.named_modules() if isinstance(module, kinds)]
