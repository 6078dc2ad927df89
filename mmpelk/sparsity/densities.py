"""How many weights each layer keeps, so that the model keeps a given share of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

ALLOCATIONS = ('snip', 'erk', 'uniform')
# A layer that would keep this share of its weights or more keeps them all (SLaK).
LEFT_DENSE = 0.99


def uniform_counts(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, int]:
    """The same density for every layer.

    Args:
        shapes: Shape of each layer's weight.
        density: Share of all weights to keep, in (0, 1].
    """
    return _settle(shapes, density, lambda names, budget: {name: density * math.prod(shapes[name]) for name in names})


def erk_counts(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, int]:
    """Erdős-Rényi-Kernel: a layer's density goes with the sum of its weight's sides over their product.

    `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, section 3.
    """

    def share(names: list[str], budget: float) -> dict[str, float]:
        factor = budget / sum(sum(shapes[name]) for name in names)
        return {name: factor * sum(shapes[name]) for name in names}

    return _settle(shapes, density, share)


def snip_counts(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """SNIP: keep the weights of the largest scores over all layers, and of that only how many they are in each layer.

    `SNIP <https://arxiv.org/abs/1810.02340>`_, Eq. 5 to 7.

    Args:
        scores: \\|weight * gradient\\| of each layer.
        density: Share of all weights to keep, in (0, 1].
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
    """Share out the weights to keep. What layers left dense keep beyond their share, the others give, until no more become dense."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counts: dict[str, int] = {}
    while len(counts) < len(sizes):
        names = [name for name in sizes if name not in counts]
        budget = max(density * sum(sizes.values()) - sum(counts.values()), 0)
        wanted = share(names, budget)
        dense = [name for name in names if wanted[name] >= LEFT_DENSE * sizes[name]]
        if not dense:
            return {name: counts.get(name, round(wanted.get(name, 0))) for name in sizes}
        counts.update({name: sizes[name] for name in dense})
    return {name: counts[name] for name in sizes}
