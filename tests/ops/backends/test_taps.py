"""The kernel that needs no tensor cores. tests/ops/backends/test_triton.py checks what it shares with the other kernels."""

from types import SimpleNamespace

import pytest
import torch
from cases import check_against_loops

from mmpelk.ops import SharingGrid, depthwise_conv2d
from mmpelk.ops.backends import BACKENDS, choose_backend
from mmpelk.ops.backends.triton import taps
from mmpelk.ops.cells import crop
from mmpelk.utils.errors import InputError

pytest.importorskip('triton', minversion='3', reason='there is no Triton, or one whose language lacks what the kernels need')
pytestmark = pytest.mark.usefixtures('interpreted')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize(
    'half, size, dtype',
    [
        ([1], (1, 1), torch.float32), ([2, 1], (3, 20), torch.bfloat16), ([3, 1, 1], (3, 8), torch.float16),
        ([5, 4, 1, 1], (9, 3), torch.float32), ([1, 1, 1], (2, 5), torch.float32),
    ],
)  # fmt: skip
def test_taps_match_the_loops(half, size, dtype):
    """The interpreter takes seconds for a few rows of a large kernel, which ``make gpu`` checks on GPUs."""
    check_against_loops(half, size, dtype, 'taps', TOLERANCE[dtype], DEVICE, batch_and_channels=3)


@pytest.mark.parametrize('block, size', [((2, 2, 4, 1), (3, 11)), (taps.BLOCKS[1], (3, 22))])
def test_taps_with_several_blocks_of_a_map(block, size, monkeypatch):
    """The maps have 3 channels."""
    monkeypatch.setattr(taps, 'BLOCKS', (block,))
    check_against_loops([2, 1, 1], size, torch.float32, 'taps', 1e-5, DEVICE, batch_and_channels=4)


def test_taps_refuse_large_dense_kernels(monkeypatch):
    x, w = torch.randn(1, 1, 20, 20, device=DEVICE), torch.randn(1, 1, 31, 31, device=DEVICE)
    with pytest.raises(InputError, match='at most 24 columns of cells, got 31'):
        depthwise_conv2d(x, w, backend='taps')
    # 'auto' does not even consider it.
    monkeypatch.setattr('mmpelk.ops.backends.fastest', lambda candidates, *_: candidates[max(candidates)])
    x = SimpleNamespace(device=torch.device('cuda'), dtype=x.dtype, shape=x.shape, stride=x.stride, is_contiguous=x.is_contiguous)
    monkeypatch.setattr('mmpelk.ops.backends.available_backends', lambda device, dtype: ('dense', 'fft', 'taps'))
    assert choose_backend('auto', x, (1,) * 31, (1,) * 31) is BACKENDS['fft']
    assert choose_backend('auto', x, (1,) * 5, (1,) * 5) is BACKENDS['taps']
    assert choose_backend('auto', x, (1,) * 31, (1,) * 31, backward=True) is BACKENDS['taps']


def test_few_kernels_of_taps_are_compiled_for_cropped_grids():
    """Widening the outermost cells changes nothing, because they already reach across the map (see the loops above)."""
    cells = SharingGrid.peripheral(67, 7).cells
    compiled = {taps.widened(crop(cells, width)[0], width) for width in range(24, 34)}
    assert len(compiled) <= 3 and all(sum(columns) // 2 % 8 == 0 for columns in compiled)
    assert taps.widened(cells, 35) == tuple(cells) and taps.widened((3,), 2) == (17,)
