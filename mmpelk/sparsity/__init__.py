"""Dynamic sparsity from SLaK, as in the paper: during training, weights are pruned by magnitude and grown at random."""

from .densities import ALLOCATIONS, erk_counts, snip_counts, uniform_counts
from .hooks import DynamicSparsityHook, FixedSparsityHook
from .masks import mask_of_zeros, prune_and_grow, random_mask, sparse_weights

__all__ = [
    'ALLOCATIONS',
    'DynamicSparsityHook',
    'FixedSparsityHook',
    'erk_counts',
    'mask_of_zeros',
    'prune_and_grow',
    'random_mask',
    'snip_counts',
    'sparse_weights',
    'uniform_counts',
]
