"""Masks over weights: drawn, read off zeros, pruned and grown."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from mmpelk.ops import SharingGrid

from .densities import LEFT_DENSE


def sparse_weights(model: nn.Module, prefix: str = '') -> dict[str, nn.Parameter]:
    """The trained parameters that sparsity counts and masks, by name: every 2-D and 4-D one whose name begins with ``prefix``."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 4) and parameter.requires_grad and name.startswith(prefix)
    }


def shared_kernels(model: nn.Module) -> set[str]:
    """The names of the weights that a sharing grid spreads."""
    return {f'{name}.weight' for name, module in model.named_modules() if isinstance(getattr(module, 'grid', None), SharingGrid)}


def random_mask(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A boolean mask of a weight's shape with exactly ``count`` entries, drawn at random."""
    order = torch.randperm(weight.numel(), generator=generator, device=generator.device)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count].to(weight.device)] = True
    return mask.view_as(weight)


def prune_and_grow(weight: Tensor, mask: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """Drop the smallest weights of a layer, by magnitude, and take in as many others at random.

    Args:
        weight: The layer's weight.
        mask: Boolean, of the same shape.
        rate: Share of the mask's weights to drop.
        generator: Draws what grows, among all that is out of the mask after the dropping.

    Returns:
        The new mask, of the same count, and how many weights are in it that were not.
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
    """The masks that trained weights were pruned by, read off their zeros.

    A cell of a shared kernel that is zero in every channel was not pruned but lies beyond the kernel that was loaded
    (:func:`mmpelk.ops.resize_weight`, 'extend'): it stays in the mask.

    Args:
        weights: By name.
        shared: From :func:`shared_kernels`.

    Returns:
        Boolean masks by name; without the layers that are dense, or zero altogether.
    """
    masks = {}
    for name, weight in weights.items():
        mask = weight != 0
        if name in shared:
            mask = mask | ~mask.any(0, keepdim=True)
        if mask.any() and mask.float().mean() < LEFT_DENSE:
            masks[name] = mask
    return masks
