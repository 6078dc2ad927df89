"""peripheral_conv2d and depthwise_conv2d against a float64 loop reference."""

import numpy as np
import pytest
import torch
from cases import HALVES, SIZES, assert_same_bits, check_against_loops, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import correlate, expand, taps_inside
from strategies import fill, halves, values

from mmpelk.ops import SharingGrid, available_backends, depthwise_conv2d, peripheral_conv2d, pos_embed_term

TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-10}
BACKENDS = [(backend, dtype) for dtype in TOLERANCE for backend in available_backends(dtype=dtype)]
GRIDS_AND_SIZES = [(half, size) for index, half in enumerate(HALVES) for size in SIZES[index % 2 :: 2]]


@pytest.mark.parametrize('backend, dtype', BACKENDS)
@pytest.mark.parametrize('half, size', GRIDS_AND_SIZES)
def test_output_and_gradients_match_the_loops(half, size, backend, dtype):
    check_against_loops(half, size, dtype, backend, TOLERANCE[dtype])


@pytest.mark.parametrize('backend', available_backends(dtype=torch.float64))
@pytest.mark.parametrize('half, size', [([1], (3, 4)), ([3, 2, 1], (4, 3)), ([4, 1, 1], (1, 5)), ([2, 2, 1], (9, 7))])
@pytest.mark.parametrize('mode', ['literal', 'inside'])
def test_gradcheck(half, size, mode, backend):
    generator = torch.Generator().manual_seed(0)
    grid = SharingGrid.from_half(half)
    shapes = (2, 2, *size), (2, 1, grid.weight_size, grid.weight_size), (1, grid.kernel_size, grid.kernel_size), (2,)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda x, w, h, b: peripheral_conv2d(x, w, grid, h, b, backend=backend, pos_embed_mode=mode), tensors
    )


@pytest.mark.parametrize('half, size', [([1], (1, 1)), ([2, 1], (3, 2)), ([4, 2, 1, 1], (5, 9)), ([9, 8, 4, 2, 1, 1, 1], (7, 4))])
def test_inside_mode_counts_only_taps_inside_the_map(half, size):
    rng = np.random.default_rng(1)
    grid = SharingGrid.from_half(half)
    x, w = rng.normal(size=(2, 3, *size)), rng.normal(size=(3, grid.weight_size, grid.weight_size))
    h = rng.normal(size=(1, grid.kernel_size, grid.kernel_size))
    kernel = expand(w, half)
    expected = np.einsum('yxij,cij->cyx', taps_inside(*size, grid.kernel_size), kernel * h)
    x, w, h = torch.from_numpy(x), torch.from_numpy(w[:, None]), torch.from_numpy(h)
    assert relative_error(pos_embed_term(w, grid, h, size, mode='inside'), expected) < 1e-10
    output = peripheral_conv2d(x, w, grid, h, pos_embed_mode='inside')
    assert relative_error(output, correlate(x.numpy(), kernel) + expected) < 1e-10


@given(values(), values(), halves, st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=40)
def test_all_backends_agree(numbers, weights, half, channels, height, width):
    grid = SharingGrid.from_half(half)
    x = fill(numbers, 2, channels, height, width)
    w = fill(weights, channels, grid.weight_size, grid.weight_size)
    expected = torch.from_numpy(correlate(x, expand(w, half)))
    for backend in (*available_backends(dtype=torch.float64), 'auto'):
        output = peripheral_conv2d(torch.from_numpy(x), torch.from_numpy(w)[:, None], grid, backend=backend)
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('backend, dtype', BACKENDS)
@pytest.mark.parametrize('kernel', [(1, 1), (5, 31), (13, 3), (151, 7)])
def test_depthwise_conv2d_with_a_full_kernel(kernel, backend, dtype):
    rng = np.random.default_rng(2)
    x, w, bias = rng.normal(size=(2, 3, 11, 6)), rng.normal(size=(3, 1, *kernel)), rng.normal(size=3)
    expected = correlate(x, w[:, 0]) + bias[None, :, None, None]
    output = depthwise_conv2d(*(torch.from_numpy(array).to(dtype) for array in (x, w, bias)), backend)
    assert relative_error(output, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    'dtype, backend',
    [(dtype, backend) for dtype in (torch.float16, torch.bfloat16) for backend in available_backends(dtype=dtype)],
)
def test_half_types_keep_their_type(dtype, backend):
    generator = torch.Generator().manual_seed(0)
    grid = SharingGrid.peripheral(31)
    x, w = torch.randn(1, 2, 12, 12, generator=generator).to(dtype), torch.randn(2, 1, 11, 11, generator=generator).to(dtype)
    output = peripheral_conv2d(x, w, grid, backend=backend)
    assert output.dtype == dtype
    expected = correlate(x.double().numpy(), expand(w[:, 0].double().numpy(), grid.half))
    assert relative_error(output, expected) < (2e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize('backend', available_backends())
def test_gradients_work_after_inference_mode(backend):
    grid = SharingGrid.from_half([11, 5, 3, 1])
    x, w = torch.randn(1, 2, 9, 9), torch.randn(2, 1, 7, 7, requires_grad=True)
    with torch.inference_mode():
        expected = peripheral_conv2d(x, w, grid, backend=backend)
    output = peripheral_conv2d(x, w, grid, backend=backend)
    output.sum().backward()
    assert_same_bits([output], [expected])
    assert w.grad.abs().sum() > 0


GRID = SharingGrid.peripheral(31)
X, W = torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 11, 11)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: peripheral_conv2d(X[0], W, GRID), r'input must have shape \(N, C, H, W\).*got \(2, 8, 8\)'),
        (lambda: peripheral_conv2d(X[..., :0], W, GRID), r'at least 1, got \(1, 2, 8, 0\)'),
        (lambda: peripheral_conv2d(X.long(), W, GRID), 'or float64, got torch.int64'),
        (lambda: peripheral_conv2d(X.to(torch.float8_e4m3fn), W, GRID), 'or float64, got torch.float8_e4m3fn'),
        (lambda: peripheral_conv2d(X, torch.zeros(2, 1, 13, 13), GRID), r'\(2, 1, 11, 11\).*got \(2, 1, 13, 13\)'),
        (lambda: peripheral_conv2d(X, torch.zeros(3, 1, 11, 11), GRID), r'got \(3, 1, 11, 11\)'),
        (lambda: peripheral_conv2d(X, W[:, 0], GRID), r'got \(2, 11, 11\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(1, 51, 51)), r'\(1 or 2, 31, 31\), got \(1, 51, 51\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(3, 31, 31)), r'\(1 or 2, 31, 31\), got \(3, 31, 31\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(1, 31, 31), pos_embed_mode='edge'), "'inside'.*got 'edge'"),
        (lambda: peripheral_conv2d(X, W, GRID, bias=torch.zeros(3)), r'bias must have shape \(2,\), got \(3,\)'),
        (
            lambda: peripheral_conv2d(X, W, GRID, backend='cutlass'),
            r"one of \('auto', 'dense', 'fft', 'native', 'taps', 'triton'\), got 'cutlass'",
        ),
        (lambda: depthwise_conv2d(X, torch.zeros(2, 1, 4, 5)), 'must be odd, got 4x5'),
        (lambda: depthwise_conv2d(X, torch.zeros(2, 2, 5, 5)), r'\(2, 1, kh, kw\).*got \(2, 2, 5, 5\)'),
        (lambda: depthwise_conv2d(X[0], torch.zeros(2, 1, 5, 5)), r'input must have shape \(N, C, H, W\).*got \(2, 8, 8\)'),
        (lambda: depthwise_conv2d(X, torch.zeros(2, 1, 5, 5), torch.zeros(1)), r'bias must have shape \(2,\), got \(1,\)'),
    ],
)
def test_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
