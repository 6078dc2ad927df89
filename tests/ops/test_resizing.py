from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import fill, halves, values

from mmpelk.ops import SharingGrid, peripheral_conv2d, resize_pos_embed, resize_weight
from mmpelk.ops.resizing import resizing_error


def painted(weight, old, new, scale):
    """Apply the definition on a fine raster: paint the scaled old kernel, and average it over each new cell.

    Each pixel has ``parts`` steps along each axis, so that every cell border of both grids is a border between steps.
    """
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
def test_the_weight_of_a_new_cell_is_the_mean_over_the_cell(old, new, mode):
    old, new = SharingGrid.from_half(old), SharingGrid.from_half(new)
    weight = torch.randn(old.weight_size, old.weight_size, dtype=torch.double)
    expected = painted(weight, old, new, new.kernel_size / old.kernel_size if mode == 'stretch' else 1)
    torch.testing.assert_close(resize_weight(weight, old, new, mode), expected)


@settings(max_examples=60)
@given(halves, st.integers(0, 40), st.integers(1, 3), values(), values(), values())
def test_extending_outward_does_not_change_the_convolution(half, more, base, weights, embedding, pixels):
    old = SharingGrid.from_half(half)
    new = old.extended(old.kernel_size + 2 * more, base)
    assert new.kernel_size == old.kernel_size + 2 * more and new.half[len(new.half) - len(half) :] == half
    weight = torch.from_numpy(fill(weights, 3, 1, old.weight_size, old.weight_size))
    h = torch.from_numpy(fill(embedding, 1, old.kernel_size, old.kernel_size))
    x = torch.from_numpy(fill(pixels, 2, 3, 9, 7))
    before = peripheral_conv2d(x, weight, old, h)
    after = peripheral_conv2d(x, resize_weight(weight, old, new), new, resize_pos_embed(h, new.kernel_size))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(halves, halves, values())
def test_the_sum_over_the_kernel_is_kept(old, new, weights):
    old, new = SharingGrid.from_half(old), SharingGrid.from_half(new)
    weight = torch.from_numpy(fill(weights, 2, 1, old.weight_size, old.weight_size))

    def total(weight, grid):
        return (weight * grid.areas()).sum((-2, -1))

    # 'stretch' keeps the sum for any two grids. 'extend' keeps it if nothing is cut off.
    torch.testing.assert_close(total(resize_weight(weight, old, new, 'stretch'), new), total(weight, old))
    if new.kernel_size >= old.kernel_size:
        torch.testing.assert_close(total(resize_weight(weight, old, new), new), total(weight, old))


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
@settings(max_examples=60)
@given(half=halves, weights=values(), taps=values())
def test_grids_of_the_same_kernel_size(mode, half, weights, taps):
    grid = SharingGrid.from_half(half)
    dense = SharingGrid.dense(grid.kernel_size)
    weight = torch.from_numpy(fill(weights, 2, 1, grid.weight_size, grid.weight_size))
    torch.testing.assert_close(resize_weight(weight, grid, grid, mode), weight)
    torch.testing.assert_close(resize_weight(weight, grid, dense, mode), grid.expand(weight))
    kernel = torch.from_numpy(fill(taps, 2, 1, grid.kernel_size, grid.kernel_size))
    torch.testing.assert_close(resize_weight(kernel, dense, grid, mode), grid.reduce(kernel))


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize('mode, limit', [('extend', 0.06), ('stretch', 0.025)])
def test_a_smooth_kernel_resized_to_101_and_back(mode, limit):
    """The grids are the defaults, and the kernel is a Gaussian. docs/resizing.md has the errors."""
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
        center = outer[:, margin : outer.shape[1] - margin, margin : outer.shape[2] - margin]
        assert torch.equal(center, inner)
        assert new < old or resized.count_nonzero() == h.count_nonzero()
    else:
        assert abs(resized[0, new // 2, new // 2]) < 1e-5 and (resized - resized.flip(1, 2).neg()).abs().max() < 1e-4


def test_invalid_arguments():
    grid = SharingGrid.peripheral(51)
    with pytest.raises(ValueError, match=r"mode must be one of \('extend', 'stretch'\), got 'shrink'"):
        resize_weight(torch.zeros(13, 13), grid, grid, 'shrink')
    with pytest.raises(ValueError, match=r'weight must have shape \(..., 13, 13\)'):
        resize_weight(torch.zeros(11, 11), grid, grid)
    for size in (49, 52, 51.0):
        with pytest.raises(ValueError, match='kernel_size must be odd and at least 51'):
            grid.extended(size)


def test_resizing_error():
    dense, weight = SharingGrid.dense(7), torch.randn(3, 1, 7, 7)

    def error(weight, new):
        return resizing_error(weight, dense, resize_weight(weight, dense, new), new)

    assert error(weight, SharingGrid.peripheral(51, center_size=7)) == 0
    assert error(weight, SharingGrid.peripheral(51, center_size=9)) == 0
    coarse = SharingGrid.peripheral(51, center_size=5)
    difference = coarse.expand(resize_weight(weight, dense, coarse)) - F.pad(weight, [22] * 4)
    assert error(weight, coarse) == pytest.approx((difference.norm() / weight.norm()).item())
    # A smaller kernel loses the taps outside of it.
    lost = (weight.square().sum() - weight[..., 1:6, 1:6].square().sum()).sqrt() / weight.norm()
    assert error(weight, SharingGrid.dense(5)) == pytest.approx(lost.item())
    assert error(torch.zeros(1, 7, 7), coarse) == 0
