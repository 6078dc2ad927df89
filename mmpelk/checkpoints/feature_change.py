"""Measure how resizing the kernels of a checkpoint on loading changes the features of a backbone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmpelk.models import PeLK
from mmpelk.models.state_dict import stored_grid
from mmpelk.ops import PeripheralConv2d
from mmpelk.ops.resizing import resizing_error


class FeatureChange(NamedTuple):
    """How the features of a backbone change when its kernels are resized on loading.

    Attributes:
        sizes: The old and the new kernel sizes, without repetition.
        exact: Whether all resized kernels are the same functions of the offset as before.
        change: Norm of the change of the last output on random images, divided by the norm before.
    """

    sizes: tuple[tuple[int, int], ...]
    exact: bool
    change: float

    def __str__(self) -> str:
        sizes = ', '.join(f'{old}x{old} to {new}x{new}' for old, new in self.sizes)
        verdict = 'this is exact' if self.exact else f'this is NOT exact; a center of {self.sizes[0][0]} would be'
        return f'kernels are resized on loading ({sizes}): {verdict}; the last features change by {self.change:.2g} of their norm'


@torch.no_grad()
def measure_feature_change(backbone: nn.Module, weights: Mapping[str, Tensor], size: int = 224) -> FeatureChange | None:
    """Compare a backbone that resizes the kernels of a checkpoint with one that keeps their original size.

    Args:
        backbone: A PeLK, or a backbone with grown kernels.
        weights: Weights that the backbone can load, each kernel with its ``half_grid``.
        size: Height and width of the random images.

    Returns:
        The change, or None if no kernel is resized, or kernels are missing.
    """
    resized, original = copy.deepcopy(backbone), copy.deepcopy(backbone)
    kernels = {}
    for name, module in backbone.named_modules():
        if isinstance(module, PeripheralConv2d):
            if f'{name}.weight' not in weights:
                return None
            old = stored_grid(weights[f'{name}.half_grid'], f'{name}.half_grid')
            kernels[name] = weights[f'{name}.weight'], old, module.grid
    if all(old == new for _, old, new in kernels.values()):
        return None
    if isinstance(backbone, PeLK):
        first = [f'stages.{stage}.0.token_mixer.large' for stage in range(len(backbone.grids))]
        original.resize_kernels(sharing_grids=[kernels[name][1].half for name in first])
    else:
        for name, (weight, old, _) in kernels.items():
            original.get_submodule(name).set_grid(old)
            original.get_submodule(name).weight = nn.Parameter(weight)
    images = torch.randn(1, _image_channels(backbone), size, size, generator=torch.Generator().manual_seed(0))
    outputs = []
    for model in (original, resized):
        model.load_state_dict(weights, strict=False)
        model.eval()
        outputs.append(model(images)[-1])
    change = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    is_exact = all(
        resizing_error(weight, old, resized.get_submodule(name).weight.detach(), new) == 0
        for name, (weight, old, new) in kernels.items()
    )
    sizes = dict.fromkeys((old.kernel_size, new.kernel_size) for _, old, new in kernels.values())
    return FeatureChange(tuple(sizes), is_exact, change.item())


def _image_channels(backbone: nn.Module) -> int:
    """Return the number of channels of the images that a backbone takes."""
    return next(module for module in backbone.modules() if isinstance(module, nn.Conv2d)).in_channels
