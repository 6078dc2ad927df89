"""Receptive fields of known kernels."""

import numpy as np
import pytest
import torch
from torch import nn

from mmpelk.analysis.receptive_field import area_ratios, contribution_map, heat_map, heat_map_on_image, without_pooling
from mmpelk.models import PeLK


class Blur(nn.Module):
    """Average the square of this size around every position."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return (nn.functional.avg_pool2d(x, self.size, 1, self.size // 2),)


@pytest.mark.parametrize('size', [1, 5, 21])
def test_known_kernel(size):
    contribution = contribution_map(Blur(size), [torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)])
    rows, columns = np.nonzero(contribution)
    assert (np.ptp(rows), np.ptp(columns)) == (size - 1, size - 1) and rows.min() == 32 - size // 2
    ratios = area_ratios(contribution)
    assert ratios[0.99] == pytest.approx((size / 64) ** 2)
    assert list(ratios.values()) == sorted(ratios.values())
    inner = next(r for r in range(64) if (2 * r + 1) ** 2 > 0.2 * size**2)
    assert ratios[0.2] == pytest.approx(((2 * inner + 1) / 64) ** 2)
    picture = heat_map(contribution, 64)
    assert picture.shape == (64, 64, 3) and picture[32, 32].sum() > picture[0, 0].sum()


def test_heat_map_on_image_is_brightest_at_the_position():
    at = (0.25, 0.75)  # row 16, column 48 of 64
    contribution = contribution_map(Blur(9), [torch.rand(1, 3, 64, 64)], at)
    image = np.full((40, 80, 3), 100, np.uint8)
    picture = heat_map_on_image(contribution, image, at, 160)
    assert picture.shape == (80, 160, 3)
    # The area around the cross, but not on its lines, is brighter than a corner far away.
    assert picture[22, 122].sum() > picture[70, 10].sum()
    assert tuple(picture[20, 120]) == (255, 60, 60)


def test_without_pooling_outputs_maps_and_leaves_the_backbone_unchanged():
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    backbone = PeLK(arch=arch, kernel_sizes=(7, 7, 7, 7), out_indices=(3,), gap_before_final_norm=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert without_pooling(backbone)(x)[-1].shape[2:] == (2, 2)
    assert backbone(x)[-1].ndim == 2
