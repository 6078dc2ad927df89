import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpelk.sparsity import erk_counts, snip_counts, uniform_counts

SHAPES = dict(stem=(40, 3, 4, 4), large=(15, 1, 13, 13), up=(160, 40), down=(40, 160), head=(10, 320))
density = st.floats(0.02, 1.0)


def total(counts):
    return sum(counts.values())


def size(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@settings(deadline=None)
@given(density)
@pytest.mark.parametrize('allocate', [uniform_counts, erk_counts])
def test_the_overall_density_is_met(allocate, density):
    counts = allocate(SHAPES, density)
    assert list(counts) == list(SHAPES)
    assert abs(total(counts) - density * size(SHAPES)) <= max(len(SHAPES), 0.01 * size(SHAPES) * (density >= 0.99))
    for name, shape in SHAPES.items():
        assert 0 <= counts[name] <= math.prod(shape)
        assert counts[name] == math.prod(shape) or counts[name] < 0.9901 * math.prod(shape) + 1


def test_erk_by_the_formula():
    """Density proportional to (n_out + n_in + kh + kw) / (n_out n_in kh kw), dense layers apart (Evci et al., section 3)."""
    counts = erk_counts(SHAPES, 0.3)
    sparse = [name for name, shape in SHAPES.items() if counts[name] < math.prod(shape)]
    factors = {counts[name] / sum(SHAPES[name]) for name in sparse}
    assert len(sparse) >= 2 and max(factors) - min(factors) < 0.05 * max(factors)


@settings(deadline=None, max_examples=50)
@given(density, st.integers(0, 1000))
def test_snip_keeps_the_largest_scores(density, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=generator) * 10 ** (i - 2) for i, (name, shape) in enumerate(SHAPES.items())}
    counts = snip_counts(scores, density)
    assert abs(total(counts) - density * size(SHAPES)) <= max(2, 0.01 * size(SHAPES) * (density >= 0.99))
    sparse = [name for name in SHAPES if counts[name] < scores[name].numel()]
    everything = torch.cat([scores[name].flatten() for name in sparse]) if sparse else torch.empty(0)
    threshold = everything.sort(descending=True).values[total({name: counts[name] for name in sparse}) - 1] if sparse else 0
    for name in sparse:  # one threshold over all layers that are not dense
        assert counts[name] == (scores[name] >= threshold).sum()


def test_a_layer_that_comes_out_dense_gives_the_others_less():
    scores = dict(important=torch.full((100, 10), 5.0), other=torch.rand(1000, 10))
    scores['important'][0, :5] = 0  # would come out at 0.995
    counts = snip_counts(scores, 0.6)
    assert counts == dict(important=1000, other=5600)
    assert uniform_counts(dict(a=(10, 10)), 1.0) == dict(a=100)
