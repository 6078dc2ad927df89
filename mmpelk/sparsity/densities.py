"""Allocate a density to each layer, so that the model keeps a given fraction of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

ALLOCATIONS = ('snip', 'erk', 'uniform')
# A layer that would keep at least this fraction of its weights stays dense (SLaK).
MIN_DENSE = 0.99


def uniform_counts(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, int]:
    """Compute how many weights each layer keeps if all layers have the same density.

    Args:
        shapes: Shape of each layer's weight.
        density: Fraction of all weights to keep, in (0, 1].

    Returns:
        The number of weights that each layer keeps.
    """
    return _settle(shapes, density, lambda names, budget: {name: density * math.prod(shapes[name]) for name in names})


def erk_counts(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, int]:
    """Compute how many weights each layer keeps with Erdős-Rényi-Kernel (ERK).

    The density of a layer is proportional to the sum of its weight's dimensions divided by their product
    (`Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, section 3).

    Args:
        shapes: Shape of each layer's weight.
        density: Fraction of all weights to keep, in (0, 1].

    Returns:
        The number of weights that each layer keeps.
    """

    def share(names: list[str], budget: float) -> dict[str, float]:
        factor = budget / sum(sum(shapes[name]) for name in names)
        return {name: factor * sum(shapes[name]) for name in names}

    return _settle(shapes, density, share)


def snip_counts(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """Compute how many weights each layer keeps with SNIP.

    SNIP keeps the weights with the largest scores over all layers (`SNIP <https://arxiv.org/abs/1810.02340>`_, Eq. 5 to 7). Only
    their number in each layer is used here.

    Args:
        scores: \\|weight * gradient\\| of each layer.
        density: Fraction of all weights to keep, in (0, 1].

    Returns:
        The number of weights that each layer keeps.
    """

    def share(names: list[str], budget: float) -> dict[str, float]:
        everything = torch.cat([scores[name].flatten() for name in names])
        kept = everything.topk(min(round(budget), len(everything)), sorted=False).indices
        is_kept = torch.zeros(len(everything), dtype=torch.bool, device=everything.device)
        is_kept[kept] = True
        parts = is_kept.split([scores[name].numel() for name in names])
        return {name: float(part.sum()) for name, part in zip(names, parts, strict=True)}

    return _settle({name: score.shape for name, score in scores.items()}, density, share)


def _settle(
    shapes: Mapping[str, Sequence[int]], density: float, share: Callable[[list[str], float], dict[str, float]]
) -> dict[str, int]:
    """Distribute the weights to keep over the layers with ``share``, repeatedly, until no more layers become dense.

    Layers that stay dense exceed their budget; the other layers lose the same number of weights.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counts: dict[str, int] = {}
    while len(counts) < len(sizes):
        names = [name for name in sizes if name not in counts]
        budget = max(density * sum(sizes.values()) - sum(counts.values()), 0)
        wanted = share(names, budget)
        dense = [name for name in names if wanted[name] >= MIN_DENSE * sizes[name]]
        if not dense:
            return {name: counts.get(name, round(wanted.get(name, 0))) for name in sizes}
        counts.update({name: sizes[name] for name in dense})
    return {name: counts[name] for name in sizes}
