from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import collapse, expand
from strategies import fill, halves, values

from mmpelk.ops import SharingGrid

# All grids that the paper prints, and the grids that our rule gives for the other kernels of the models (paper, Tables 5 and 6, Fig. 1).
PRINTED = [
    (5, 1, [2, 1]),
    (31, 5, [7, 4, 2, 1, 1, 1]),
    (33, 5, [8, 4, 2, 1, 1, 1]),
    (51, 1, [11, 8, 4, 2, 1]),
    (51, 3, [10, 8, 4, 2, 1, 1]),
    (51, 5, [9, 8, 4, 2, 1, 1, 1]),
    (51, 7, [8, 8, 4, 2, 1, 1, 1, 1]),
]
RULE = [
    (47, 5, [15, 4, 2, 1, 1, 1]),
    (69, 7, [17, 8, 4, 2, 1, 1, 1, 1]),
    (13, 5, [2, 2, 1, 1, 1]),
    (101, 7, [17, 16, 8, 4, 2, 1, 1, 1, 1]),
]
odd = st.integers(0, 75).map(lambda n: 2 * n + 1)


@pytest.mark.parametrize('kernel_size, center_size, half', PRINTED + RULE)
def test_grids_of_the_paper(kernel_size, center_size, half):
    grid = SharingGrid.peripheral(kernel_size, center_size)
    assert list(grid.half) == half
    assert grid == SharingGrid.from_half(half)
    assert (grid.kernel_size, grid.weight_size) == (kernel_size, 2 * len(half) - 1)


@given(odd, odd, st.integers(1, 5))
def test_properties_of_peripheral_grids(kernel_size, center_size, base):
    center_size = min(center_size, kernel_size)
    grid = SharingGrid.peripheral(kernel_size, center_size, base)
    assert sum(grid.cells) == kernel_size == grid.edges[-1]
    assert len(grid.cells) == grid.weight_size == len(grid.edges) - 1
    assert grid.cells == grid.cells[::-1]
    assert all(outer >= inner for outer, inner in pairwise(grid.half))
    assert grid.half[-(center_size // 2 + 1) :] == (1,) * (center_size // 2 + 1)
    assert grid.areas().sum() == kernel_size**2


@given(halves, values(), values())
def test_expand_and_its_adjoint_and_inverse(half, weights, kernel):
    grid = SharingGrid.from_half(half)
    weight = fill(weights, 2, grid.weight_size, grid.weight_size)
    expanded = grid.expand(torch.from_numpy(weight))
    assert np.array_equal(expanded.numpy(), expand(weight, half))  # copies are equal to the bit
    torch.testing.assert_close(grid.reduce(expanded), torch.from_numpy(weight))
    kernel = fill(kernel, 2, grid.kernel_size, grid.kernel_size)
    torch.testing.assert_close(grid.cell_sums(torch.from_numpy(kernel)), torch.from_numpy(collapse(kernel, half)))


def test_a_dense_grid_does_not_share():
    grid = SharingGrid.dense(7)
    assert grid.cells == (1,) * 7
    weight = torch.randn(3, 1, 7, 7)
    assert grid.expand(weight) is weight


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: SharingGrid.peripheral(50), 'kernel_size must be a positive odd integer, got 50'),
        (lambda: SharingGrid.peripheral(51, 4), 'center_size must be a positive odd integer, got 4'),
        (lambda: SharingGrid.peripheral(3, 5), 'center_size must not exceed kernel_size=3, got 5'),
        (lambda: SharingGrid.peripheral(51, 5, 0), 'base must be an integer of at least 1, got 0'),
        (lambda: SharingGrid.peripheral(51.0), 'kernel_size must be a positive odd integer, got 51.0'),
        (lambda: SharingGrid.dense(-1), 'positive odd integer, got -1'),
        (lambda: SharingGrid.from_half([]), r'half must contain positive integer cell sizes, outermost first, got \(\)'),
        (lambda: SharingGrid.from_half([3, 0, 1]), r'got \(3, 0, 1\)'),
        (lambda: SharingGrid.from_half([3, 2]), r'the center cell .* must be odd, got 2 in \(3, 2\)'),
        (lambda: SharingGrid.peripheral(51).expand(torch.zeros(2, 11, 11)), r'\(..., 13, 13\) for this grid, got \(2, 11, 11\)'),
        (lambda: SharingGrid.peripheral(51).reduce(torch.zeros(13, 13)), r'\(..., 51, 51\) for this grid, got \(13, 13\)'),
    ],
)
def test_invalid_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
