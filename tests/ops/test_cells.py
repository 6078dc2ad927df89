import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import correlate, expand
from strategies import fill, halves, values

from mmpelk.ops import SharingGrid
from mmpelk.ops.cells import cell_sums, crop
from mmpelk.ops.cells import expand as expand_cells


@pytest.mark.parametrize(
    'cells, length, expected',
    [
        ((2, 1, 1, 1, 2), 9, ((2, 1, 1, 1, 2), 0)),  # the kernel fits
        ((2, 1, 1, 1, 2), 4, ((2, 1, 1, 1, 2), 0)),  # 7 taps touch a map of 4
        ((2, 1, 1, 1, 2), 3, ((1, 1, 1, 1, 1), 0)),  # the outer cells shrink
        ((2, 1, 1, 1, 2), 2, ((1, 1, 1), 1)),  # the outer cells are removed
        ((2, 1, 1, 1, 2), 1, ((1,), 2)),
        ((5,), 2, ((3,), 0)),  # the center cell shrinks
        ((1, 3, 1), 1, ((1,), 1)),
    ],
)
def test_crop(cells, length, expected):
    assert crop(cells, length) == expected


@given(values(), values(), halves, st.integers(1, 12))
def test_cropping_removes_exactly_the_taps_that_cannot_touch_the_map(numbers, weights, half, length):
    cells = SharingGrid.from_half(half).cells
    rest, dropped = crop(cells, length)
    assert sum(rest) == min(sum(cells), 2 * length - 1) and len(rest) == len(cells) - 2 * dropped
    x, w = fill(numbers, 1, 1, length, length), fill(weights, 1, len(cells), len(cells))
    kept = w[:, dropped : dropped + len(rest), dropped : dropped + len(rest)]
    cropped = expand_cells(torch.from_numpy(kept.copy()), rest, rest).numpy()
    np.testing.assert_array_equal(correlate(x, cropped), correlate(x, expand(w, half)))


@given(values(), values(), halves, halves)
def test_rows_and_columns_can_have_different_cells(weights, kernel, rows, columns):
    rows, columns = SharingGrid.from_half(rows).cells, SharingGrid.from_half(columns).cells
    weight = torch.from_numpy(fill(weights, 2, len(rows), len(columns)))
    kernel = torch.from_numpy(fill(kernel, 2, sum(rows), sum(columns)))
    expected = weight.repeat_interleave(torch.tensor(rows), -2).repeat_interleave(torch.tensor(columns), -1)
    assert torch.equal(expand_cells(weight, rows, columns), expected)
    # The adjoint: <expand(w), g> == <w, cell_sums(g)>.
    torch.testing.assert_close((expected * kernel).sum(), (weight * cell_sums(kernel, rows, columns)).sum())


@pytest.mark.parametrize('function, size, cells', [(expand_cells, 3, (13, 1, 13)), (cell_sums, 25, (12, 1, 12))])
def test_gradients_work_after_inference_mode(function, size, cells):
    """The index of the cells is cached on the first call. No other test has these cells."""
    tensor = torch.randn(1, size, size, requires_grad=True)
    with torch.inference_mode():
        function(tensor, cells, cells)
    function(tensor, cells, cells).square().sum().backward()
    assert tensor.grad.abs().sum() > 0
