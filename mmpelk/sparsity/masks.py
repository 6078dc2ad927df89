"""Create masks, prune and grow them, and recover them from the zeros of trained weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from mmpelk.ops import SharingGrid

from .densities import MIN_DENSE


def sparse_weights(model: nn.Module, prefix: str = '') -> dict[str, nn.Parameter]:
    """Return the parameters that can be masked: all trainable 2-D and 4-D parameters whose name starts with ``prefix``."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 4) and parameter.requires_grad and name.startswith(prefix)
    }


def shared_kernels(model: nn.Module) -> set[str]:
    """Return the names of the kernels that share parameters over a sharing grid."""
    return {f'{name}.weight' for name, module in model.named_modules() if isinstance(getattr(module, 'grid', None), SharingGrid)}


def random_mask(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return a random boolean mask with the weight's shape and exactly ``count`` true entries."""
    order = torch.randperm(weight.numel(), generator=generator, device=generator.device)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count].to(weight.device)] = True
    return mask.view_as(weight)


def prune_and_grow(weight: Tensor, mask: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """Drop the weights of a layer with the smallest magnitudes, and grow the same number of others at random.

    Args:
        weight: The layer's weight.
        mask: Boolean mask of the same shape.
        rate: Fraction of the mask's weights to drop.
        generator: Draws the weights to grow from all weights outside the mask, including those just dropped.

    Returns:
        The new mask, with as many weights as before, and the number of weights that are new in it.
    """
    dropped = round(rate * int(mask.sum()))
    if dropped == 0 or mask.all():
        return mask, 0
    flat = mask.flatten().clone()
    flat[weight.abs().flatten().masked_fill(~flat, torch.inf).topk(dropped, largest=False, sorted=False).indices] = False
    lots = torch.rand(flat.numel(), generator=generator, device=generator.device).to(flat.device).masked_fill(flat, -1.0)
    flat[lots.topk(dropped, sorted=False).indices] = True
    grown = flat.view_as(mask)
    return grown, int((grown & ~mask).sum())


def mask_of_zeros(weights: Mapping[str, Tensor], shared: Collection[str]) -> dict[str, Tensor]:
    """Recover the masks of pruned weights from their zeros.

    A cell of a shared kernel that is zero in every channel is not pruned. It is outside the kernel that was loaded and extended
    (:func:`mmpelk.ops.resize_weight`, mode 'extend'), so it stays in the mask.

    Args:
        weights: The weights by name.
        shared: The result of :func:`shared_kernels`.

    Returns:
        Boolean masks by name. Layers that are dense or entirely zero have none.
    """
    masks = {}
    for name, weight in weights.items():
        mask = weight != 0
        if name in shared:
            mask = mask | ~mask.any(0, keepdim=True)
        if mask.any() and mask.float().mean() < MIN_DENSE:
            masks[name] = mask
    return masks
