"""peripheral_conv2d and depthwise_conv2d against a float64 loop reference."""

import numpy as np
import pytest
import torch
from cases import HALVES, SIZES, check_against_loops, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import correlate, expand, taps_inside

from mmpelk.ops import SharingGrid, available_backends, depthwise_conv2d, describe_backends, peripheral_conv2d, pos_embed_term

TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-10}


def cases():
    """440 seeded cases: every grid on small maps and a few larger ones, both types, every backend."""
    rng = np.random.default_rng(0)
    sizes = [(h, w) for h, w in SIZES]
    for half in HALVES:
        for index in rng.choice(len(sizes), 4 if sum(half) > 40 else 5, replace=False):
            for dtype in (torch.float32, torch.float64):
                for backend in available_backends(dtype=dtype):
                    yield pytest.param(
                        half, sizes[index], dtype, backend, id=f'{2 * sum(half) - half[-1]}-{sizes[index]}-{dtype}-{backend}'
                    )


@pytest.mark.parametrize('half, size, dtype, backend', cases())
def test_against_loops(half, size, dtype, backend):
    check_against_loops(half, size, dtype, backend, TOLERANCE[dtype])


def test_there_are_300_cases():
    assert len(list(cases())) >= 300


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
def test_inside_mode_counts_taps_inside_only(half, size):
    rng = np.random.default_rng(1)
    grid = SharingGrid.from_half(half)
    w, h = rng.normal(size=(3, grid.weight_size, grid.weight_size)), rng.normal(size=(1, grid.kernel_size, grid.kernel_size))
    inside = taps_inside(*size, grid.kernel_size)
    expected = np.einsum('yxij,cij->cyx', inside, expand(w, half) * h)
    term = pos_embed_term(torch.from_numpy(w[:, None]), grid, torch.from_numpy(h), size, mode='inside')
    assert relative_error(term, expected) < 1e-10


@given(st.integers(0, 2**32 - 1), st.sampled_from(HALVES), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_backends_agree_and_are_linear(seed, half, height, width):
    generator = torch.Generator().manual_seed(seed)
    grid = SharingGrid.from_half(half)
    x, y = torch.randn(2, 2, 3, height, width, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 1, grid.weight_size, grid.weight_size, generator=generator, dtype=torch.float64)
    results = [peripheral_conv2d(x + 2 * y, w, grid, backend=backend) for backend in (*available_backends(dtype=x.dtype), 'auto')]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-9)
    separate = peripheral_conv2d(x, w, grid) + 2 * peripheral_conv2d(y, w, grid)
    torch.testing.assert_close(separate, results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype, backend', [(d, b) for d in TOLERANCE for b in available_backends(dtype=d)])
@pytest.mark.parametrize('kernel', [(1, 1), (5, 31), (13, 3), (151, 7)])
def test_depthwise_with_a_full_kernel(kernel, dtype, backend):
    rng = np.random.default_rng(2)
    x, w, bias = rng.normal(size=(2, 3, 11, 6)), rng.normal(size=(3, 1, *kernel)), rng.normal(size=3)
    expected = correlate(x, w[:, 0]) + bias[None, :, None, None]
    output = depthwise_conv2d(*(torch.from_numpy(array).to(dtype) for array in (x, w, bias)), backend)
    assert relative_error(output, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize('backend', available_backends())
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_keep_their_type(dtype, backend):
    generator = torch.Generator().manual_seed(0)
    grid = SharingGrid.peripheral(31)
    x, w = torch.randn(1, 2, 12, 12, generator=generator).to(dtype), torch.randn(2, 1, 11, 11, generator=generator).to(dtype)
    output = peripheral_conv2d(x, w, grid, backend=backend)
    assert output.dtype == dtype
    expected = correlate(x.double().numpy(), expand(w[:, 0].double().numpy(), grid.half))
    assert relative_error(output, expected) < (2e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize('backend', available_backends())
def test_autocast_changes_nothing(backend):
    generator = torch.Generator().manual_seed(0)
    grid = SharingGrid.peripheral(31)
    x, w = torch.randn(1, 2, 12, 12, generator=generator), torch.randn(2, 1, 11, 11, generator=generator, requires_grad=True)
    expected = peripheral_conv2d(x, w, grid, backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = peripheral_conv2d(x, w, grid, backend=backend)
        from_half = peripheral_conv2d(x.bfloat16(), w, grid, backend=backend)
    assert torch.equal(output, expected)
    assert from_half.dtype == torch.bfloat16
    from_half.sum().backward()
    assert w.grad.dtype == torch.float32


@pytest.mark.parametrize('backend', available_backends())
def test_inference_mode_first_and_gradients_after(backend):
    grid = SharingGrid.from_half([11, 5, 3, 1])
    x, w = torch.randn(1, 2, 9, 9), torch.randn(2, 1, 7, 7, requires_grad=True)
    with torch.inference_mode():
        expected = peripheral_conv2d(x, w, grid, backend=backend)
    output = peripheral_conv2d(x, w, grid, backend=backend)
    output.sum().backward()
    assert torch.equal(output, expected) and w.grad.abs().sum() > 0


def test_chunks_change_nothing(monkeypatch):
    from mmpelk.ops.backends import fft

    x, w, up = torch.randn(2, 5, 9, 7), torch.randn(5, 1, 11, 11), torch.randn(2, 5, 9, 7)

    def run():
        inputs = x.clone().requires_grad_(), w.clone().requires_grad_()
        output = depthwise_conv2d(*inputs, backend='fft')
        return output, *torch.autograd.grad(output, inputs, up)

    whole = run()
    monkeypatch.setattr(fft, 'CACHE_BYTES', 2 * 2 * 15 * 7 * 8)  # two channels at a time
    for chunked, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(chunked, expected)


def test_empty_batch():
    assert depthwise_conv2d(torch.zeros(0, 2, 5, 5), torch.zeros(2, 1, 3, 3)).shape == (0, 2, 5, 5)


def test_output_does_not_hold_the_padded_transform():
    output = depthwise_conv2d(torch.randn(1, 2, 16, 16), torch.randn(2, 1, 31, 31), backend='fft')
    assert output.is_contiguous() and output.untyped_storage().nbytes() == output.numel() * 4


def test_auto_takes_the_cheaper_backend():
    from mmpelk.ops.backends import BACKENDS, choose_backend

    large, small, cells = torch.empty(1, 46, 128, 128), torch.empty(1, 374, 7, 7), SharingGrid.peripheral(51).cells
    assert choose_backend('auto', large.double(), cells, cells) is BACKENDS['fft']
    assert choose_backend('auto', small.double(), (1,) * 5, (1,) * 5) is BACKENDS['dense']
    if 'native' in available_backends():
        assert choose_backend('auto', large, cells, cells) is BACKENDS['native']


GRID = SharingGrid.peripheral(31)
X, W = torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 11, 11)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: peripheral_conv2d(X[0], W, GRID), r'input must have shape \(N, C, H, W\).*got \(2, 8, 8\)'),
        (lambda: peripheral_conv2d(X[..., :0], W, GRID), r'at least 1, got \(1, 2, 8, 0\)'),
        (lambda: peripheral_conv2d(X.long(), W, GRID), 'must be floating point, got torch.int64'),
        (lambda: peripheral_conv2d(X, torch.zeros(2, 1, 13, 13), GRID), r'\(2, 1, 11, 11\).*got \(2, 1, 13, 13\)'),
        (lambda: peripheral_conv2d(X, torch.zeros(3, 1, 11, 11), GRID), r'got \(3, 1, 11, 11\)'),
        (lambda: peripheral_conv2d(X, W[:, 0], GRID), r'got \(2, 11, 11\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(1, 51, 51)), r'\(1 or 2, 31, 31\), got \(1, 51, 51\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(3, 31, 31)), r'\(1 or 2, 31, 31\), got \(3, 31, 31\)'),
        (lambda: peripheral_conv2d(X, W, GRID, torch.zeros(1, 31, 31), pos_embed_mode='edge'), "'inside'.*got 'edge'"),
        (lambda: peripheral_conv2d(X, W, GRID, bias=torch.zeros(3)), r'bias must have shape \(2,\), got \(3,\)'),
        (
            lambda: peripheral_conv2d(X, W, GRID, backend='cutlass'),
            r"one of \('auto', 'dense', 'fft', 'native', 'triton'\), got 'cutlass'",
        ),
        (lambda: depthwise_conv2d(X, torch.zeros(2, 1, 4, 5)), 'must be odd, got 4x5'),
        (lambda: depthwise_conv2d(X, torch.zeros(2, 2, 5, 5)), r'\(2, 1, kh, kw\).*got \(2, 2, 5, 5\)'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_backend_that_cannot_run_is_refused(monkeypatch):
    from mmpelk.ops.backends import fft

    monkeypatch.setattr(fft, 'unavailable', lambda device, dtype: 'no FFT in this build')
    assert available_backends(dtype=torch.float64) == ('dense',)
    with pytest.raises(ValueError, match="'fft' cannot run on cpu with torch.float64: no FFT in this build; available: .'dense'"):
        peripheral_conv2d(X.double(), W.double(), GRID, backend='fft')
    assert describe_backends(dtype=torch.float64)['fft'] == 'unavailable: no FFT in this build'
    assert peripheral_conv2d(X.double(), W.double(), GRID).shape == X.shape


@pytest.mark.parametrize('backend', available_backends())
def test_torch_checks_the_operator(backend):
    x, w, bias = torch.randn(2, 3, 5, 6), torch.randn(3, 1, 7, 7), torch.randn(3)
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = x.contiguous(memory_format=layout).requires_grad_(), w.requires_grad_(), bias.requires_grad_()
        cells = SharingGrid.from_half([2, 2, 1, 1]).cells
        torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d.default, (*inputs, cells, cells, backend))


@pytest.mark.parametrize('backend', available_backends())
@pytest.mark.parametrize('channels', [1, 4])
def test_memory_formats_are_kept(channels, backend):
    x, w, grid = torch.randn(2, 7, 9, 8), torch.randn(channels, 1, 5, 5), SharingGrid.from_half([3, 1, 1])
    expected = peripheral_conv2d(x[:, :channels].contiguous(), w, grid, backend=backend)
    assert expected.is_contiguous()
    last = x.contiguous(memory_format=torch.channels_last)[:, :channels]
    output = peripheral_conv2d(last, w, grid, backend=backend)
    torch.testing.assert_close(output, expected)
    assert channels == 1 or output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(peripheral_conv2d(x.mT[:, :channels], w.mT, grid, backend=backend).mT, expected)


def test_compiles_whole():
    grid = SharingGrid.peripheral(31)
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((2, 3, 9, 12), (3, 1, 11, 11), (1, 31, 31), (3,))]

    def call(x, w, h, bias):
        return peripheral_conv2d(x, w, grid, h, bias).sin().sum()

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend='aot_eager')
    expected = torch.autograd.grad(call(*tensors), tensors)
    for grad, reference in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(grad, reference)


def test_flop_counters_see_the_dense_taps():
    from torch.utils.flop_counter import FlopCounterMode

    x, w = torch.randn(2, 3, 9, 12, requires_grad=True), torch.randn(3, 1, 11, 11, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        peripheral_conv2d(x, w, SharingGrid.peripheral(31)).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * x.numel() * 31 * 31
