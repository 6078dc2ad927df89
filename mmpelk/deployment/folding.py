"""Fold the parts that only training needs into plain convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError

# Relative to the largest output.
TOLERANCE = 1e-4


@torch.no_grad()
def fold(model: nn.Module, keep_grid: bool = False, size: int = 128) -> float:
    """Fold every PeLK backbone of a model in place, and compare its outputs on random images before and after.

    Args:
        model: A model in eval mode.
        keep_grid: See :meth:`mmpelk.PeLK.switch_to_deploy`.
        size: Height and width of the random images.

    Returns:
        The largest difference between the outputs before and after, relative to the largest output.

    Raises:
        InputError: If the model has no PeLK backbone, a backbone cannot be folded, or its outputs change by more than 1e-4.
    """
    backbones = [module for module in model.modules() if isinstance(module, PeLK)]
    if not backbones:
        raise InputError(f'{type(model).__name__} has no PeLK backbone to fold')
    worst = 0.0
    for backbone in backbones:
        weight = next(backbone.parameters())
        channels = backbone.downsample_layers[0][0].in_channels
        images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(weight)
        # The reference is computed in float64, so that it adds no rounding errors of its own.
        exact = copy.deepcopy(backbone).double()
        for module in exact.modules():
            if hasattr(module, 'backend'):
                module.backend = 'auto'  # the backend in the config may not support float64
        expected = exact(images.double())
        try:
            backbone.switch_to_deploy(keep_grid)
        except ValueError as error:
            raise InputError(f'the backbone cannot be folded: {error}') from error
        difference = relative_difference(backbone(images), expected)
        if not difference < TOLERANCE:  # also true for NaN
            raise InputError(f'folding changes the outputs by {difference:.1e}, more than {TOLERANCE}')
        worst = max(worst, difference)
    return worst


def relative_difference(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Return the largest difference of an output from its reference, relative to the reference's largest value.

    The result is NaN if any difference is NaN.
    """
    pairs = zip(outputs, references, strict=True)
    return torch.stack([(output - reference).abs().max() / reference.abs().max() for output, reference in pairs]).max().item()
