"""How the counts of the work of the GPU backends are made."""

import pytest
import torch
from conftest import ROOT

from mmpelk.analysis.gpu_bounds import GPUS, bound_lines, product_work, taps_work

A100, H100 = GPUS
SMALL = (2, 16, 16, 5)  # 5 rows of cells of 1 tap each, and one block has all columns
OUTPUTS = 2 * 16 * 16 * 16
# Of the 2 x 16 x 5 pairs of a row and a row of cells in a channel, 2 x 6 lie outside the map.
ROWS_READ = 2 * (16 * 5 - 6)


def test_products_by_hand():
    """A program has 128 rows, of which 32 are in the map, and 16 columns. It reads 16 source columns for each row of cells."""
    work, on_hopper = (product_work(SMALL, torch.bfloat16, gpu) for gpu in GPUS)
    steps, means, factors = 16 * 5, 128 * 16, 16 * 16
    assert work.products == steps * 128 * 16 * 16
    assert product_work(SMALL, torch.float32, A100).products == 3 * steps * 64 * 16 * 16  # its blocks have 64 rows
    assert work.memory == 2 * OUTPUTS * 2 and work.launches == 3  # the factors, the means, and the products
    assert work.l2 == 2 * (OUTPUTS + 16 * ROWS_READ * 16 + steps * factors)
    # 8 warps, or 2 groups of 4 warps, share the rows, and all of them read all factors.
    assert work.l1 == 2 * (2 * OUTPUTS + steps * (means + factors + means + 8 * factors))
    assert on_hopper.l1 == 2 * (2 * OUTPUTS + steps * (means + factors + means + 2 * factors))
    copies = steps * (means + factors) * 2 / 16
    assert work.slots == 32 * steps * (16 + (means + 8 * factors) * 2 / 512) + copies
    assert on_hopper.slots == 32 * steps * 8 + copies
    # 2048 positions of sums in 256 threads.
    assert work.registers == 8
    large = product_work((16, 46, 128, 51), torch.float32, A100)
    assert large.launches == 1 + 2 * 8  # 6 maps of 16 x (128 + 8) x 128 numbers: 6 of 46 channels at once


def test_taps_by_hand():
    """A program has 8 rows, which reach 10 rows of the map, and 16 channels."""
    work = taps_work(SMALL, torch.float32)
    threads, weights = OUTPUTS // 16, 5 * 6
    assert work.fused == OUTPUTS * weights and work.slots == work.fused + 4 * threads * 5 * 20 + threads * weights
    assert work.l1 == 4 * (2 * OUTPUTS + 16 * ROWS_READ * 16 + threads * weights)
    assert work.l2 == 4 * (OUTPUTS + 16 * (4 * 10) * 16 + threads // 8 * weights)
    assert work.registers == 16
    bounds = work.bounds(H100, 4)
    assert bounds['memory'] == pytest.approx(1e6 * 8 * OUTPUTS / 3.35e12) and bounds['products'] == 0
    assert bounds['L1'] == pytest.approx(1e6 * work.l1 / (132 * 128 * 1.98e9))
    half = taps_work(SMALL, torch.bfloat16)
    assert work.l1 - half.l1 == 2 * 2 * OUTPUTS  # only the means are read and written in half as many bytes


def test_variants_share_factors():
    shape, outputs = (16, 46, 128, 51), 16 * 46 * 128 * 128
    work = product_work(shape, torch.bfloat16, A100)
    more = product_work(shape, torch.bfloat16, A100, more_rows=2)
    assert more.products == work.products and more.registers == 2 * work.registers
    factors = 13 * 128 * 128 * 128  # 13 rows of cells, and 128 rows, source columns, and columns
    assert work.l2 - more.l2 == 46 * 16 * 128 // 256 * factors // 128 * 2
    assert more.l1 < work.l1 and more.slots < work.slots
    two = product_work(shape, torch.bfloat16, A100, channels=2)
    assert two.products == 2 * work.products and two.l2 == work.l2 and two.l1 > work.l1
    assert len(bound_lines([SMALL])) == 2 + 2 * 4
    # The page says that no design can meet the target of three times a copy.
    for dtype in (torch.float32, torch.bfloat16):
        for gpu in GPUS:
            works = [product_work(shape, dtype, gpu), product_work(shape, dtype, gpu, more_rows=2), taps_work(shape, dtype)]
            lowest = min(max(design.bounds(gpu, dtype.itemsize).values()) for design in works)
            assert lowest > 3 * 1e6 * 2 * outputs * dtype.itemsize / gpu.memory


def test_the_page_shows_the_bounds():
    page = (ROOT / 'docs/benchmarks/gpu.md').read_text()
    assert '\n'.join(bound_lines()) in page
