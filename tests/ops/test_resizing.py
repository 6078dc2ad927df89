from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpelk.ops import SharingGrid, peripheral_conv2d, resize_pos_embed, resize_weight

halves = st.lists(st.integers(1, 9), min_size=0, max_size=6).flatmap(
    lambda cells: st.sampled_from([1, 3, 5]).map(lambda centre: (*cells, centre))
)


def painted(weight, old, new, scale):
    """The definition, on a fine raster: paint the old kernel, scaled, and average it over each new cell. Each pixel has ``parts``
    steps an axis; their number makes every cell border of both grids a border of steps."""
    parts = 2 * old.kernel_size
    size = new.kernel_size * parts
    raster = torch.zeros(size, size, dtype=torch.double)
    old_index = [index for index, cell in enumerate(old.cells) for _ in range(cell)]
    for i in range(size):
        for j in range(size):
            pixel = [((at + 0.5 - size / 2) / parts / scale + old.kernel_size / 2) for at in (i, j)]
            if all(0 <= p < old.kernel_size for p in pixel):
                raster[i, j] = weight[old_index[int(pixel[0])], old_index[int(pixel[1])]]
    edges = [edge * parts for edge in new.edges]
    means = [[raster[a:b, c:d].mean() for c, d in pairwise(edges)] for a, b in pairwise(edges)]
    return torch.tensor(means, dtype=torch.double) / scale**2


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
@pytest.mark.parametrize(
    'old, new',
    [([2, 1], [1, 1, 1]), ([2, 1, 1], [3, 2, 1, 1]), ([1], [2, 1]), ([3, 1], [1]), ([1, 2, 1], [2, 1, 1]), ([3], [2, 1])],
)
def test_a_new_cell_takes_the_mean_over_itself(old, new, mode):
    old, new = SharingGrid.from_half(old), SharingGrid.from_half(new)
    weight = torch.randn(old.weight_size, old.weight_size, dtype=torch.double)
    expected = painted(weight, old, new, new.kernel_size / old.kernel_size if mode == 'stretch' else 1)
    torch.testing.assert_close(resize_weight(weight, old, new, mode), expected)


@settings(deadline=None, max_examples=60)
@given(half=halves, more=st.integers(0, 40), base=st.integers(1, 3))
def test_extending_outward_changes_nothing(half, more, base):
    old = SharingGrid.from_half(half)
    new = old.extended(old.kernel_size + 2 * more, base)
    assert new.kernel_size == old.kernel_size + 2 * more and new.half[len(new.half) - len(half) :] == half
    weight = torch.randn(3, 1, old.weight_size, old.weight_size, dtype=torch.double)
    h, x = torch.randn(1, old.kernel_size, old.kernel_size).double(), torch.randn(2, 3, 9, 7).double()
    before = peripheral_conv2d(x, weight, old, h)
    after = peripheral_conv2d(x, resize_weight(weight, old, new), new, resize_pos_embed(h, new.kernel_size))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(old=halves, new=halves)
def test_laws(old, new):
    old, new = SharingGrid.from_half(old), SharingGrid.from_half(new)
    weight = torch.randn(2, 1, old.weight_size, old.weight_size, dtype=torch.double)

    def total(weight, grid):
        return (weight * grid.areas()).sum((-2, -1))

    # Stretching keeps the sum over the kernel, for any two grids; extending keeps it where nothing is cut off.
    torch.testing.assert_close(total(resize_weight(weight, old, new, 'stretch'), new), total(weight, old))
    if new.kernel_size >= old.kernel_size:
        torch.testing.assert_close(total(resize_weight(weight, old, new), new), total(weight, old))
    for mode in ('extend', 'stretch'):
        torch.testing.assert_close(resize_weight(weight, old, old, mode), weight)
        dense = SharingGrid.dense(old.kernel_size)
        torch.testing.assert_close(resize_weight(weight, old, dense, mode), old.expand(weight))
        kernel = torch.randn(2, 1, old.kernel_size, old.kernel_size, dtype=torch.double)
        torch.testing.assert_close(resize_weight(kernel, dense, old, mode), old.reduce(kernel))


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize('mode, limit', [('extend', 0.06), ('stretch', 0.025)])
def test_a_smooth_kernel_to_101_and_back(mode, limit):
    """On the default grids. The smooth kernel is a Gaussian; figures in docs/resizing.md."""
    old, new = SharingGrid.peripheral(51), SharingGrid.peripheral(101, center_size=7)
    at = torch.linspace(-1, 1, 51, dtype=torch.double)
    weight = old.reduce(torch.exp(-4 * (at[:, None] ** 2 + at**2)))
    back = resize_weight(resize_weight(weight, old, new, mode), new, old, mode)
    assert 0.01 < relative_error(back, weight) < limit


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
@pytest.mark.parametrize('sizes', [(13, 51), (51, 13), (7, 7)])
def test_pos_embed(mode, sizes):
    old, new = sizes
    at = torch.linspace(-1, 1, old)
    h = (at[:, None] * 2 + at)[None]
    resized = resize_pos_embed(h, new, mode)
    assert resized.shape == (1, new, new)
    margin = abs(new - old) // 2
    if mode == 'extend':
        inner, outer = (h, resized) if new > old else (resized, h)
        centre = outer[:, margin : outer.shape[1] - margin, margin : outer.shape[2] - margin]
        assert torch.equal(centre, inner)
        assert new < old or resized.count_nonzero() == h.count_nonzero()
    else:
        assert abs(resized[0, new // 2, new // 2]) < 1e-5 and (resized - resized.flip(1, 2).neg()).abs().max() < 1e-4


def test_bad_arguments():
    grid = SharingGrid.peripheral(51)
    with pytest.raises(ValueError, match=r"mode must be one of \('extend', 'stretch'\), got 'shrink'"):
        resize_weight(torch.zeros(13, 13), grid, grid, 'shrink')
    with pytest.raises(ValueError, match=r'weight must have shape \(..., 13, 13\)'):
        resize_weight(torch.zeros(11, 11), grid, grid)
    for size in (49, 52, 51.0):
        with pytest.raises(ValueError, match='kernel_size must be odd and at least 51'):
            grid.extended(size)
