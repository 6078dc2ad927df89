import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from mmpelk.models import PeLK
from mmpelk.sparsity import mask_of_zeros, prune_and_grow, random_mask, sparse_weights
from mmpelk.sparsity.masks import shared_kernels

SMALL = dict(arch=dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_which_weights_count():
    model = nn.ModuleDict(dict(backbone=PeLK(**SMALL, frozen_stages=1), head=nn.Linear(20, 3)))
    names = sparse_weights(model)
    assert {'head.weight', 'backbone.stages.1.0.token_mixer.large.weight', 'backbone.stages.3.0.pointwise_conv1.weight'} <= set(
        names
    )
    assert not any('pos_embed' in name or name.endswith('bias') or 'gamma' in name for name in names)  # h is 3-D
    assert not any('stages.0.' in name for name in names)  # frozen
    assert set(sparse_weights(model, 'head.')) == {'head.weight'}
    kernels = shared_kernels(model)
    assert len(kernels) == 4 and 'backbone.stages.1.0.token_mixer.large.weight' in kernels


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.data())
def test_random_masks_have_their_count(shape, data):
    weight = torch.zeros(shape)
    count = data.draw(st.integers(0, weight.numel()))
    mask = random_mask(weight, count, generator(3))
    assert mask.shape == weight.shape and mask.sum() == count
    assert torch.equal(mask, random_mask(weight, count, generator(3)))


@given(npst.array_shapes(max_dims=4, max_side=5), st.floats(0, 1), st.data())
def test_pruning_and_growing_by_definition(shape, rate, data):
    weight = torch.from_numpy(data.draw(npst.arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))))
    mask = torch.from_numpy(data.draw(npst.arrays(np.bool_, shape)))
    new, changed = prune_and_grow(weight, mask, rate, generator(1))
    count = int(mask.sum())
    assert new.shape == mask.shape and new.dtype == torch.bool and new.sum() == count
    assert changed == (new & ~mask).sum() == (mask & ~new).sum()
    dropped = 0 if mask.all() else round(rate * count)
    assert changed <= dropped
    # All weights of the mask above the largest dropped magnitude are kept. Several magnitudes may be equal to it.
    magnitudes = weight.abs()[mask].sort().values
    if dropped < count:
        assert new[mask & (weight.abs() > (magnitudes[dropped - 1] if dropped else -1))].all()
    if dropped:
        assert (weight.abs()[mask & ~new] <= magnitudes[dropped - 1]).all()


def test_what_grows_is_drawn_evenly():
    weight, mask = torch.rand(40, 50), torch.zeros(40, 50, dtype=torch.bool)
    mask[:, :25] = True
    grown = torch.zeros(40, 50)
    for seed in range(200):
        new, _ = prune_and_grow(weight, mask, 0.1, generator(seed))
        grown += new & ~mask
    # 100 weights are dropped, and 100 weights grow, drawn from the 1000 outside the mask and the 100 just dropped.
    assert grown[:, :25].sum() == 0
    assert grown[:, 25:].mean() / 200 == pytest.approx(100 / 1100, rel=0.02) and grown[:, 25:].std() < 6


def test_masks_are_recovered_from_zeros():
    weights = dict(sparse=torch.tensor([[0.0, 1.0], [2.0, 0.0]]), dense=torch.ones(20, 20), empty=torch.zeros(3, 3))
    weights['dense'][0, 0] = 0  # a weight may be zero by chance
    masks = mask_of_zeros(weights, set())
    assert set(masks) == {'sparse'} and masks['sparse'].tolist() == [[False, True], [True, False]]


def test_cells_beyond_a_kernel_that_was_extended_stay_free():
    model = PeLK(**SMALL)
    name = 'stages.0.0.token_mixer.large.weight'
    with torch.no_grad():
        for weight in sparse_weights(model).values():
            weight.mul_(random_mask(weight, round(0.6 * weight.numel()), generator()))
    before = mask_of_zeros(sparse_weights(model), shared_kernels(model))[name]
    model.resize_kernels(sharing_grids=[grid.extended(k).half for grid, k in zip(model.grids, (101, 69, 67, 13), strict=True)])
    after = mask_of_zeros(sparse_weights(model), shared_kernels(model))[name]
    margin = (after.shape[-1] - 13) // 2
    assert margin == 1 and torch.equal(after[..., 1:-1, 1:-1], before)
    after[..., 1:-1, 1:-1] = True
    assert after.all()
