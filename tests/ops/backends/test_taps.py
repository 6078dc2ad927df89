"""How the kernel that needs no tensor cores is launched. tests/ops/backends/test_triton.py, which also runs on GPUs, runs it."""

import pytest
import torch

from mmpelk.ops import SharingGrid
from mmpelk.ops.backends.triton import padded, taps
from mmpelk.ops.cells import crop


def test_few_kernels_of_taps_are_compiled_for_cropped_grids():
    """Widening the outermost cells changes nothing, because they already reach across the map."""
    cells = SharingGrid.peripheral(67, 7).cells
    compiled = {taps.widened(crop(cells, width)[0], width) for width in range(24, 34)}
    assert len(compiled) <= 3 and all(sum(columns) // 2 % 8 == 0 for columns in compiled)
    assert taps.widened(cells, 35) == tuple(cells) and taps.widened((3,), 2) == (17,)


@pytest.mark.parametrize(
    'width, blocks',
    [
        (1, ((8, 16, 1, 4),)),
        (9, ((8, 16, 16, 4),)),
        (16, ((8, 16, 16, 4),)),
        (17, ((8, 16, 32, 4), (8, 16, 16, 4))),
        (500, ((8, 16, 32, 4), (8, 16, 16, 4))),
    ],
)
def test_blocks_are_no_wider_than_the_map(width, blocks):
    assert taps.blocks(width) == blocks


@pytest.mark.parametrize('images', [1, 2, 5])
def test_as_many_images_as_fit(images, monkeypatch):
    x = torch.empty(9, 5, 6, 7, dtype=torch.bfloat16, device='meta')
    one = 3 * (6 + 4) * 7 * padded(5) * 2  # three kinds of maps with four more rows each
    monkeypatch.setattr(taps, 'MAX_MAPS_BYTES', images * one)
    assert taps.images_at_once(x, 3, 4) == images
    monkeypatch.setattr(taps, 'MAX_MAPS_BYTES', images * one - 1)
    assert taps.images_at_once(x, 3, 4) == max(1, images - 1)
