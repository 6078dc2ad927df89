"""How the counts of the work of the GPU backends are made."""

import pytest
import torch
from conftest import ROOT

from mmpelk.analysis.gpu_bounds import GPUS, bound_lines, product_work, taps_work


def test_counts_by_hand():
    """On 16x16 positions, K = 5 has 5 rows of cells of 1 tap each, and one block has all columns."""
    shape, outputs = (2, 16, 16, 5), 2 * 16 * 16 * 16
    work = product_work(shape, torch.bfloat16)
    assert work.products == outputs * 5 * 16 and product_work(shape, torch.float32).products == 3 * outputs * 5 * 16
    assert work.memory == 2 * outputs * 2
    factors = 16 * 1 * 5 * 16 * 16  # one block of 128 rows for each channel
    assert work.cache == 2 * (outputs + outputs * 5 + factors)
    assert work.launches == 3  # the factors, the means, and the products
    work = taps_work(shape, torch.float32)
    loads = outputs * 5 * 20 / 16
    assert work.fused == outputs * 5 * 6 and work.slots == work.fused + 4 * loads and work.cache == 4 * (outputs + loads)
    bounds = work.bounds(GPUS[1], 4)
    assert bounds['memory'] == pytest.approx(1e6 * 8 * outputs / 3.35e12) and bounds['products'] == 0
    assert len(bound_lines([shape])) == 2 + 4
    large = product_work((16, 46, 128, 51), torch.float32)
    assert large.launches == 1 + 2 * 8  # 6 maps of 16 x (128 + 8) x 128 numbers: 6 of 46 channels at once


def test_the_page_shows_the_bounds():
    page = (ROOT / 'docs/benchmarks/gpu.md').read_text()
    assert '\n'.join(bound_lines()) in page
