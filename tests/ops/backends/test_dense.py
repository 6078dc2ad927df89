"""The dense backend in half types. test_functional.py compares its values with the loops."""

import pytest
import torch

from mmpelk.ops.backends import dense


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_taps_of_a_cell_are_summed_in_float32(dtype):
    # With a gradient of 1 at the center only, the gradient of each of the 65 x 65 taps of the cell is 1. No half type has 4225.
    x, up, weight = torch.ones(1, 1, 65, 65, dtype=dtype), torch.zeros(1, 1, 65, 65, dtype=dtype), torch.ones(1, 1, 1, 1)
    up[0, 0, 32, 32] = 1
    _, grad = dense.backward(up, x, weight, (65,), (65,), (False, True))
    assert grad.dtype == torch.float32 and grad.item() == 65 * 65
