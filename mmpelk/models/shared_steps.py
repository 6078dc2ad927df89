"""Smaller optimizer steps for the shared weights of grown kernels. Needs only torch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mmpelk.utils.torch_compat import hook_steps

from .growing import GrownConv2d


def scale_shared_steps(model: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Divide each step of a grown kernel's weights by the square root of the number of taps that share the weight.

    AdamW changes each weight by about the learning rate, so a weight that A taps share changes the response to smooth input A times as
    much as a weight of the center. With this function, AdamW updates the weights as if they were stored multiplied by the square root
    of A. Updates of the center do not change, and checkpoints still contain the weights themselves.

    Args:
        model: A model that :func:`mmpelk.models.grow_kernels` enlarged. Kernels that do not require gradients are skipped.
        optimizer: The optimizer of the model's weights.

    Returns:
        A handle whose ``remove()`` ends the scaling.

    Raises:
        ValueError: If the optimizer has no weight of a grown kernel.

    Example:
        >>> grow_kernels(model, (51, 49, 47, 13))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        >>> scale_shared_steps(model, optimizer)
    """
    optimized = {id(weight) for group in optimizer.param_groups for weight in group['params']}
    kernels = [
        module
        for module in model.modules()
        if isinstance(module, GrownConv2d) and module.weight.requires_grad and id(module.weight) in optimized
    ]
    if not kernels:
        raise ValueError(f'the {type(optimizer).__name__} has no grown kernel of the model; build it after grow_kernels')
    roots = [kernel.grid.areas().to(kernel.weight).sqrt() for kernel in kernels]
    before: list[Tensor] = []

    def remember() -> None:
        before[:] = [kernel.weight.detach().clone() for kernel in kernels]

    def scale() -> None:
        for kernel, old, root in zip(kernels, before, roots, strict=True):
            new = kernel.weight.detach()
            new.copy_(old + (new - old) / root.to(new))

    return hook_steps(optimizer, remember, scale)
