"""The dense backend in half types. test_functional.py compares its values with the loops."""

import pytest
import torch

from mmpelk.ops import available_backends
from mmpelk.ops.backends import dense


@pytest.mark.parametrize(
    'dtype', [dtype for dtype in (torch.float16, torch.bfloat16) if 'dense' in available_backends(dtype=dtype)]
)
def test_the_taps_of_a_cell_are_summed_in_float32(dtype):
    # With a gradient of 1 at the center only, the gradient of each of the 65 x 65 taps of the cell is 1. No half type has 4225.
    # Sums in a half type would stop growing at 256 or 2048.
    x, up = torch.ones(1, 1, 65, 65, dtype=dtype), torch.zeros(1, 1, 65, 65, dtype=dtype)
    up[0, 0, 32, 32] = 1
    grad = dense.weight_grad(up, x, (65,), (65,))
    assert grad.item() == torch.tensor(65.0 * 65, dtype=dtype).item()
