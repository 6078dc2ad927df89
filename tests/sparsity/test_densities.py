import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmpelk.sparsity import erk_counts, snip_counts, uniform_counts

SHAPES = dict(stem=(40, 3, 4, 4), large=(15, 1, 13, 13), up=(160, 40), down=(40, 160), head=(10, 320))
densities = st.floats(0.02, 1.0)
sides = st.integers(1, 30)
shapes_of_layers = st.lists(st.tuples(sides, sides) | st.tuples(sides, sides, sides, sides), min_size=1, max_size=6).map(
    lambda shapes: {f'layer{i}': shape for i, shape in enumerate(shapes)}
)
layers_with_scores = st.lists(
    npst.arrays(np.float32, npst.array_shapes(max_dims=2, max_side=12), elements=st.floats(0, 1e4, width=32)),
    min_size=1,
    max_size=5,
).map(lambda arrays: {f'layer{i}': torch.from_numpy(array) for i, array in enumerate(arrays)})


def total(counts):
    return sum(counts.values())


def size(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


def check_total(counts, shapes, density, rounding):
    """The overall density is met up to rounding, and to the 1% by which layers that stay dense may exceed their budget."""
    excess = total(counts) - density * size(shapes)
    dense = sum(math.prod(shape) for name, shape in shapes.items() if counts[name] == math.prod(shape))
    assert -rounding <= excess <= rounding + (0.0102 * dense if total(counts) == dense else 0)


@given(shapes_of_layers, densities)
@pytest.mark.parametrize('allocate', [uniform_counts, erk_counts])
def test_the_overall_density_is_met(allocate, shapes, density):
    counts = allocate(shapes, density)
    assert list(counts) == list(shapes)
    check_total(counts, shapes, density, rounding=len(shapes) / 2 + 0.01)
    for name, shape in shapes.items():
        assert 0 <= counts[name] <= math.prod(shape)
        assert counts[name] == math.prod(shape) or counts[name] < 0.9901 * math.prod(shape) + 1


@given(densities)
@pytest.mark.parametrize('allocate', [uniform_counts, erk_counts])
def test_the_overall_density_of_real_layers_is_met(allocate, density):
    counts = allocate(SHAPES, density)
    assert abs(total(counts) - density * size(SHAPES)) <= max(len(SHAPES), 0.01 * size(SHAPES) * (density >= 0.99))


def test_erk_by_the_formula():
    """The density of layers that are not dense is proportional to (n_out + n_in + kh + kw) / (n_out n_in kh kw)."""
    counts = erk_counts(SHAPES, 0.3)
    sparse = [name for name, shape in SHAPES.items() if counts[name] < math.prod(shape)]
    factors = {counts[name] / sum(SHAPES[name]) for name in sparse}
    assert len(sparse) >= 2 and max(factors) - min(factors) < 0.05 * max(factors)


@given(densities, layers_with_scores)
def test_snip_keeps_the_largest_scores(density, scores):
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    counts = snip_counts(scores, density)
    assert list(counts) == list(scores)
    check_total(counts, shapes, density, rounding=0.5)
    sparse = [name for name in scores if counts[name] < scores[name].numel()]
    kept = sum(counts[name] for name in sparse)
    if kept == 0:
        return
    # All layers that are not dense have the same threshold. Several scores may be equal to it.
    threshold = torch.cat([scores[name].flatten() for name in sparse]).sort(descending=True).values[kept - 1]
    for name in sparse:
        assert (scores[name] > threshold).sum() <= counts[name] <= (scores[name] >= threshold).sum()


def test_the_other_layers_lose_what_a_dense_layer_keeps():
    scores = dict(important=torch.full((100, 10), 5.0), other=torch.rand(1000, 10))
    scores['important'][0, :5] = 0  # its density would be 0.995
    counts = snip_counts(scores, 0.6)
    assert counts == dict(important=1000, other=5600)
    assert uniform_counts(dict(a=(10, 10)), 1.0) == dict(a=100)
