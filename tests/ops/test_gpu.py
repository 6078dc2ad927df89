"""Tests that need a GPU. ``pytest -m gpu tests/ops`` needs torch, numpy, pytest, and hypothesis, and the backbone mmengine and mmcv."""

import numpy as np
import pytest
import torch
from cases import HALVES, SIZES, assert_same_bits, check_against_loops, relative_error
from reference import box_correlate, correlate, expand

from mmpelk.analysis.gpu_checks import MAX_ERRORS, deterministic_algorithms, max_error
from mmpelk.ops import SharingGrid, autotune, available_backends, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import BACKENDS, choose_backend

HERE = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason='torch sees no GPU')]
HALF = (torch.float16, torch.bfloat16)
BACKENDS_HERE = [  # in half types, dense is only as accurate as torch
    (name, dtype)
    for dtype in MAX_ERRORS
    for name in (available_backends('cuda', dtype) if HERE else ())
    if name != 'dense' or dtype not in HALF
]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Disable tf32, which cuDNN uses by default, for the dense backend."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.mark.parametrize('backend, dtype', BACKENDS_HERE)
@pytest.mark.parametrize('index', range(len(HALVES)))
def test_output_and_gradients_match_the_loops(index, backend, dtype):
    for size in SIZES[index % 4 :: 4]:
        check_against_loops(HALVES[index], size, dtype, backend, max_error(backend, dtype), 'cuda')


@pytest.mark.parametrize('backend, dtype', BACKENDS_HERE)
@pytest.mark.parametrize(
    'half, shape', [([9, 8, 4, 2, 1, 1, 1], (2, 3, 128, 128)), ([17, 16, 8, 4, 2, 1, 1, 1, 1], (1, 2, 131, 512))]
)
def test_large_maps(half, shape, backend, dtype):
    grid = SharingGrid.from_half(half)
    x, up = torch.randn(2, *shape, device='cuda').to(dtype)
    w = torch.randn(shape[1], 1, grid.weight_size, grid.weight_size, device='cuda').to(dtype).requires_grad_()
    x, up, weight = (t.detach().cpu().double().numpy() for t in (x, up, w))
    expected, expected_grad = box_correlate(x, weight[:, 0], half, up)
    output = peripheral_conv2d(torch.from_numpy(x).to('cuda', dtype), w, grid, backend=backend)
    output.backward(torch.from_numpy(up).to('cuda', dtype))
    assert relative_error(output, expected) < max_error(backend, dtype)
    assert relative_error(w.grad, expected_grad[:, None]) < max_error(backend, dtype)


def test_triton_is_available():
    assert 'triton' in available_backends('cuda'), describe_backends('cuda')


def test_gradients_are_the_same_bits():
    grid = SharingGrid.peripheral(51)
    x, w = torch.randn(4, 46, 56, 56, device='cuda'), torch.randn(46, 1, 13, 13, device='cuda', requires_grad=True)
    x.requires_grad_()
    runs = [torch.autograd.grad(peripheral_conv2d(x, w, grid, backend='triton').square().sum(), (x, w)) for _ in range(3)]
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('backend', ['auto', 'fft', 'triton'])
def test_autocast_with_scaled_gradients(backend, dtype):
    grid = SharingGrid.peripheral(31)
    x, w = torch.randn(2, 8, 20, 20, device='cuda'), torch.randn(8, 1, 11, 11, device='cuda', requires_grad=True)
    scaler = torch.amp.GradScaler('cuda', enabled=dtype == torch.float16)
    with torch.autocast('cuda', dtype=dtype):
        output = peripheral_conv2d(x, w, grid, backend=backend)
    assert output.dtype == dtype
    rounded_x, rounded_w = (tensor.detach().to(dtype).double().cpu().numpy() for tensor in (x, w[:, 0]))
    assert relative_error(output, correlate(rounded_x, expand(rounded_w, grid.half))) < 2e-2
    scaler.scale(output.float().square().mean()).backward()
    assert w.grad.dtype == torch.float32 and w.grad.isfinite().all()


@pytest.mark.parametrize('mode', ['default', 'reduce-overhead'])
def test_compiles_without_graph_breaks(mode):
    grid = SharingGrid.peripheral(31)
    tensors = [torch.randn(shape, device='cuda', requires_grad=True) for shape in ((2, 3, 9, 12), (3, 1, 11, 11))]

    def call(x, w):
        return peripheral_conv2d(x, w, grid, backend='triton').sin().sum()

    compiled = torch.compile(call, fullgraph=True, mode=mode)
    expected = torch.autograd.grad(call(*tensors), tensors)
    for grad, reference in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize('backward', [False, True])
def test_auto_selects_the_backend_with_the_shortest_measured_time(backward, monkeypatch):
    grid, x = SharingGrid.peripheral(51), torch.randn(2, 46, 56, 56, device='cuda')
    times, seconds = [], autotune._seconds

    def recorded(call, device):
        times.append(seconds(call, device))
        return times[-1]

    monkeypatch.setattr(autotune, '_FASTEST', {})
    monkeypatch.setattr(autotune, '_seconds', recorded)
    chosen = choose_backend('auto', x, grid.cells, grid.cells, backward)
    names = list(reversed(available_backends('cuda')))  # the order of measuring
    if backward:
        names.remove('taps')  # it uses triton's function
    assert len(times) == len(names) and chosen is BACKENDS[names[times.index(min(times))]]
    monkeypatch.setattr(autotune, '_seconds', None)  # a second measurement would raise a TypeError
    assert choose_backend('auto', x, grid.cells, grid.cells, backward) is chosen


def test_auto_on_a_large_map_matches_the_reference():
    grid, w = SharingGrid.peripheral(51), torch.randn(46, 1, 13, 13, device='cuda')
    x = torch.randn(2, 46, 56, 56, device='cuda')
    weight, pixels = w[:, 0].double().cpu().numpy(), x.double().cpu().numpy()
    expected, _ = box_correlate(pixels, weight, grid.half, pixels)
    assert relative_error(peripheral_conv2d(x, w, grid), expected) < max_error('auto', torch.float32)


def test_deterministic_algorithms_select_triton_without_measuring(monkeypatch):
    cells = SharingGrid.peripheral(51).cells
    monkeypatch.setattr(autotune, '_seconds', None)
    with deterministic_algorithms():
        assert choose_backend('auto', torch.randn(1, 3, 9, 9, device='cuda'), cells, cells) is BACKENDS['triton']


def test_fft_respects_its_memory_limit():
    from mmpelk.ops.backends import fft

    grid = SharingGrid.peripheral(51)
    x, w = torch.randn(16, 46, 128, 128, device='cuda'), torch.randn(46, 1, 13, 13, device='cuda')
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    peripheral_conv2d(x, w, grid, backend='fft')
    assert torch.cuda.max_memory_allocated() - before < x.numel() * 4 + 5 * fft.MAX_BYTES


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    x, w = torch.randn(1, 2, 9, 9, device='cuda:1'), torch.randn(2, 1, 5, 5, device='cuda:1')
    output = peripheral_conv2d(x, w, SharingGrid.from_half([3, 1, 1]), backend='triton')
    expected = peripheral_conv2d(x.cpu(), w.cpu(), SharingGrid.from_half([3, 1, 1]))
    assert relative_error(output, expected.double().numpy()) < 1e-5


@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_backbone(dtype):
    pytest.importorskip('mmengine', reason='the backbone needs mmengine')
    pytest.importorskip('mmcv', reason='the backbone needs mmcv')
    from mmpelk.models import PeLK

    model = PeLK(arch='tiny').cuda().eval()
    x = torch.randn(1, 3, 224, 224, device='cuda')
    with torch.inference_mode():
        expected = [output.double().cpu().numpy() for output in model(x)]
        for output, reference in zip(model.to(dtype)(x.to(dtype)), expected, strict=True):
            assert output.dtype == dtype
            assert np.abs(output.double().cpu().numpy() - reference).max() < 0.1 * np.abs(reference).max()
