"""Peripheral convolutions on all kinds of grids, compared with the float64 loops on any device and by any backend."""

import numpy as np
import torch
from reference import collapse, correlate, correlate_grads, expand

from mmpelk.ops import SharingGrid, peripheral_conv2d

HALVES = [
    [1], [3], [2, 1], [7, 4, 2, 1, 1, 1], [8, 4, 2, 1, 1, 1], [11, 8, 4, 2, 1], [10, 8, 4, 2, 1, 1], [9, 8, 4, 2, 1, 1, 1],
    [8, 8, 4, 2, 1, 1, 1, 1], [15, 4, 2, 1, 1, 1], [17, 8, 4, 2, 1, 1, 1, 1], [2, 2, 1, 1, 1], [17, 16, 8, 4, 2, 1, 1, 1, 1],
    [2, 2, 2, 2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 2, 2, 1, 1, 1], [4, 4, 4, 2, 1, 1, 1], [1, 1, 2, 4, 8, 1],
    [42, 16, 8, 4, 2, 1, 1, 1, 1],
]  # fmt: skip
SIZES = [(1, 1), (1, 7), (8, 1), (2, 3), (4, 4), (5, 8), (7, 6), (8, 8), (9, 16), (14, 14), (17, 31), (30, 13)]


def relative_error(actual, expected):
    """Return the largest difference relative to the largest expected value."""
    return np.abs(actual.detach().cpu().double().numpy() - expected).max() / np.abs(expected).max()


def assert_same_bits(actual, expected):
    """Compare two sequences of tensors bit by bit, which distinguishes 0 from -0."""
    for tensor, other in zip(actual, expected, strict=True):
        assert tensor.shape == other.shape and tensor.dtype == other.dtype
        assert torch.equal(tensor.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def check_against_loops(half, size, dtype, backend, tolerance, device='cpu', batch_and_channels=4):
    """Compare the output and all gradients with the loops on random values, relative to the largest value."""
    seed = sum(half) * 1000 + size[0] * 31 + size[1]
    rng = np.random.default_rng(seed)
    n, c = rng.integers(1, batch_and_channels, size=2)
    grid = SharingGrid.from_half(half)
    per_channel = rng.random() < 0.5
    x, up = rng.normal(size=(2, n, c, *size))
    # The values have nonzero means, so that an operator that returns zeros, or omits h or the bias, fails.
    w = 0.5 + rng.normal(size=(c, grid.weight_size, grid.weight_size))
    h = 0.5 + rng.normal(size=(c if per_channel else 1, grid.kernel_size, grid.kernel_size))
    bias = 1 + rng.normal(size=c)

    def rounded(array):  # the reference gets the same rounded values as the operator
        return torch.from_numpy(array).to(device, dtype)

    args = [rounded(a).requires_grad_() for a in (x, w[:, None], h, bias)]
    x, w, h, bias, up = (rounded(a).double().cpu().numpy() for a in (x, w, h, bias, up))
    kernel = expand(w, half)
    expected = correlate(x, kernel) + ((kernel * h).sum((1, 2)) + bias)[None, :, None, None]
    output = peripheral_conv2d(args[0], args[1], grid, pos_embed=args[2], bias=args[3], backend=backend)
    assert output.dtype == dtype and output.shape == x.shape
    assert relative_error(output, expected) < tolerance

    grads = torch.autograd.grad(output, args, rounded(up))
    grad_x, grad_kernel = correlate_grads(x, kernel, up)
    per_output = up.sum((0, 2, 3))
    grad_kernel = grad_kernel + per_output[:, None, None] * h
    grad_h = kernel * per_output[:, None, None]
    expected_grads = grad_x, collapse(grad_kernel, half)[:, None], grad_h if per_channel else grad_h.sum(0)[None], per_output
    for name, grad, reference in zip(('input', 'weight', 'h', 'bias'), grads, expected_grads, strict=True):
        assert relative_error(grad, reference) < tolerance, name
