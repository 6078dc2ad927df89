"""The Triton kernels against the float64 loops, on a GPU or else in Triton's interpreter."""

import sys
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import HALVES, SIZES, assert_same_bits, check_against_loops, relative_error
from reference import correlate

from mmpelk.analysis.gpu_checks import deterministic_algorithms
from mmpelk.ops import SharingGrid, available_backends, depthwise_conv2d, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import BACKENDS, choose_backend
from mmpelk.ops.backends import triton as triton_backend
from mmpelk.ops.backends.triton import taps
from mmpelk.utils.errors import InputError

pytest.importorskip('triton', minversion='3', reason='there is no Triton, or one whose language lacks what the kernels need')
pytestmark = pytest.mark.usefixtures('interpreted')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1e-2}
TYPES = list(TOLERANCE)


def cases():
    """Yield every grid in every type, each with one of the small sizes, and every larger size with the default grid."""
    for index, half in enumerate(HALVES):
        for offset, dtype in enumerate(TYPES):
            yield pytest.param(half, SIZES[(index + 4 * offset) % 8], dtype, id=f'{half[0]}-{len(half)}-{dtype}')
    for index, size in enumerate(SIZES[8:]):
        yield pytest.param([9, 8, 4, 2, 1, 1, 1], size, TYPES[index % 3], id=f'{size}')


@pytest.mark.parametrize('half, size, dtype', cases())
def test_output_and_gradients_match_the_loops(half, size, dtype):
    check_against_loops(half, size, dtype, 'triton', TOLERANCE[dtype], DEVICE, batch_and_channels=3)


def test_a_map_with_more_columns_than_a_program():
    check_against_loops([5, 2, 1, 1], (2, 150), torch.float32, 'triton', 1e-5, DEVICE, batch_and_channels=2)


@pytest.mark.parametrize(
    'kernel, size, block', [(*key, block) for key, blocks in triton_backend.BLOCKS.items() for block in blocks[1:]], ids=str
)
def test_other_blocks_than_the_first_match_the_loops(kernel, size, block, monkeypatch):
    """Where nothing is timed, a call uses the first block."""
    original = triton_backend.blocks

    def blocks(name, *arguments):
        found = original(name, *arguments)
        return tuple(sorted(found, key=lambda other: other != block)) if name == kernel else found

    monkeypatch.setattr(triton_backend, 'blocks', blocks)
    dtype = torch.float32 if size == 4 else torch.float16
    check_against_loops([4, 1], (2, 140), dtype, 'triton', TOLERANCE[dtype], DEVICE, batch_and_channels=2)


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


@pytest.mark.parametrize('backend', ['taps', 'triton'])
def test_parts_and_other_layouts(backend, monkeypatch):
    """A map is processed in parts of its channels or images, is read in any layout, and is written in any layout."""
    grid, passed = SharingGrid.from_half([2, 1, 1]), 2
    x, w = torch.randn(2, 7, 4, 6, device=DEVICE), torch.randn(5, 1, 5, 5, device=DEVICE)
    expected = peripheral_conv2d(x, w, grid, backend='dense', partial=True)
    monkeypatch.setattr(BACKENDS[backend], 'MAX_MAPS_BYTES', 2 * 2 * 2 * 5 * 16 * 4)  # of two channels, or of less than one image
    last = x.contiguous(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for maps in (x, last, turned):
        output = peripheral_conv2d(maps, w, grid, backend=backend, partial=True)
        assert output.is_contiguous(memory_format=torch.channels_last) == (maps is last)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        assert_same_bits([output[:, -passed:]], [x[:, -passed:]])


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


def test_no_axis_of_a_grid_can_overflow(monkeypatch):
    """CUDA allows 65535 programs along the second axis. The first one takes 2**31."""
    grids = []

    class Kernels:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **constants: None

    monkeypatch.setattr(triton_backend, '_kernels', lambda: SimpleNamespace(box_means=Kernels()))
    x = torch.empty(256, 384, 14, 14, dtype=torch.bfloat16, device='meta')
    triton_backend.box_means(x, (1,), 0)
    assert grids == [(256 * 384,)]


@pytest.mark.parametrize('channels_last, images', [(False, 2), (True, 1)])
def test_more_positions_than_32_bits_can_count(channels_last, images, monkeypatch):
    launched = []
    kernel = defaultdict(lambda: lambda *arguments, **constants: launched.append(arguments))
    monkeypatch.setattr(triton_backend, '_kernels', lambda: SimpleNamespace(box_means=kernel))
    x = torch.empty(2, 1, 2**31 // (16 * images), 16, device='meta', dtype=torch.float16)
    with pytest.raises(InputError, match=f'got 2 maps of {x.shape[2]} x 16'):
        triton_backend.box_means(x, (1,), 0, channels_last)
    assert not launched
    triton_backend.box_means(x[:, :, 1:], (1,), 0, channels_last)
    assert len(launched) == 1


def test_where_nothing_is_timed_the_block_of_an_earlier_call_is_used(monkeypatch):
    launched = []

    class FakeTuner:
        """Stands for a kernel with Triton's autotuner, which finds the last block the fastest."""

        def __init__(self, blocks):
            self.configs, self.best_config = list(blocks), blocks[-1]

        def __getitem__(self, grid):
            return lambda *arguments, **constants: launched.append(self.best_config)

    monkeypatch.setattr(triton_backend, '_FASTEST', {})
    x = torch.zeros(1)
    for tune, size in ((False, 5), (True, 5), (False, 5), (False, 6)):
        triton_backend.launch(FakeTuner, ((1,), (2,), (3,)), tune, (1,), x, size, PRECISION='ieee')
    triton_backend.launch(FakeTuner, ((1,), (2,), (3,)), False, (1,), x.half(), 5, PRECISION='ieee')
    with deterministic_algorithms():
        triton_backend.launch(FakeTuner, ((1,), (2,), (3,)), False, (1,), x, 5, PRECISION='ieee')
    assert launched == [(1,), (3,), (3,), (1,), (1,), (1,)]


@pytest.mark.parametrize('kernel', [(1, 1), (5, 31), (151, 7)])
def test_full_kernels(kernel):
    rng = np.random.default_rng(2)
    x, w, bias = rng.normal(size=(1, 2, 11, 6)), rng.normal(size=(2, 1, *kernel)), rng.normal(size=2)
    tensors = (torch.from_numpy(array).to(DEVICE, torch.float32) for array in (x, w, bias))
    expected = correlate(x, w[:, 0]) + bias[None, :, None, None]
    assert relative_error(depthwise_conv2d(*tensors, 'triton'), expected) < 1e-5


def test_layouts_and_autocast():
    grid = SharingGrid.from_half([3, 1, 1])
    x, w = torch.randn(2, 3, 5, 4, device=DEVICE), torch.randn(3, 1, 5, 5, device=DEVICE, requires_grad=True)
    expected = peripheral_conv2d(x, w, grid, backend='triton')
    last = peripheral_conv2d(x.contiguous(memory_format=torch.channels_last), w, grid, backend='triton')
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits([last.contiguous()], [expected])
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        output = peripheral_conv2d(x, w, grid, backend='triton')
    assert_same_bits([output], [peripheral_conv2d(x.bfloat16(), w.bfloat16(), grid, backend='triton')])
    output.sum().backward()
    assert w.grad.dtype == torch.float32 and w.grad.abs().sum() > 0


def test_float16_cells_do_not_overflow():
    """The sum over the rows of a cell exceeds the range of float16, but the output does not."""
    grid = SharingGrid.from_half([9, 8, 4, 2, 1, 1, 1])
    x = torch.full((1, 1, 20, 3), 30000.0, device=DEVICE, dtype=torch.float16)
    w = torch.full((1, 1, 13, 13), 1e-3, device=DEVICE, dtype=torch.float16)
    output = peripheral_conv2d(x, w, grid, backend='triton')
    expected = peripheral_conv2d(x.float(), w.float(), grid, backend='dense').half()
    torch.testing.assert_close(output, expected, rtol=2e-3, atol=0)


def test_gradients_are_the_same_bits_and_checkpointing_keeps_them():
    from torch.utils.checkpoint import checkpoint

    grid = SharingGrid.from_half([4, 2, 1])
    x = torch.randn(2, 2, 6, 9, device=DEVICE, requires_grad=True)
    w = torch.randn(2, 1, 5, 5, device=DEVICE, requires_grad=True)

    def call(x, w):
        return peripheral_conv2d(x, w, grid, backend='triton')

    first = torch.autograd.grad(call(x, w).square().sum(), (x, w))
    for run in (call, lambda x, w: checkpoint(call, x, w, use_reentrant=False)):
        assert_same_bits(torch.autograd.grad(run(x, w).square().sum(), (x, w)), first)


def test_compiles_without_graph_breaks():
    grid = SharingGrid.from_half([4, 2, 1])
    tensors = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((2, 3, 5, 6), (3, 1, 5, 5))]

    def call(x, w):
        return peripheral_conv2d(x, w, grid, backend='triton').sin().sum()

    compiled = torch.compile(call, fullgraph=True, backend='aot_eager')
    expected = torch.autograd.grad(call(*tensors), tensors)
    for grad, reference in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize('backend', ['taps', 'triton'])
def test_opcheck(backend):
    x, w, bias = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((2, 2, 5, 6), (2, 1, 3, 3), (2,)))
    cells = (1, 1, 1), (2, 1, 2)
    torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d.default, (x, w, bias, *cells, 0, backend))
    torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d_weight_grad.default, (torch.randn_like(x), x, *cells, backend))


@pytest.mark.parametrize('backend', ['taps', 'triton'])
def test_second_order_forward_mode_and_vmap(backend):
    grid = SharingGrid.from_half([2, 1])
    x, w = torch.randn(2, 2, 4, 5, device=DEVICE), torch.randn(2, 1, 3, 3, device=DEVICE)

    def results(backend):
        def loss(x, w):
            return peripheral_conv2d(x, w, grid, backend=backend).pow(3).sum()

        def penalty(x, w):
            return sum(grad.square().sum() for grad in torch.func.grad(loss, (0, 1))(x, w))

        second = torch.func.grad(penalty, (0, 1))(x, w)
        tangent = torch.func.jvp(loss, (x, w), (x.flip(0), w.flip(0)))[1]
        mapped = torch.vmap(torch.func.grad(loss, (0, 1)))(torch.stack((x, 2 * x)), torch.stack((w, w.flip(1))))
        return *second, tangent, *mapped

    for value, expected in zip(results(backend), results('dense'), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_describe_backends_reports_why_triton_cannot_run(monkeypatch):
    from mmpelk.ops.backends import triton as backend

    assert 'triton' not in available_backends(DEVICE, torch.float64)

    def fail(*args, **kwargs):
        raise RuntimeError('PTX of the wrong version\nmore')

    monkeypatch.setattr(backend, '_FAILURES', {})
    monkeypatch.setattr(backend, '_correlate', fail)
    assert 'RuntimeError: PTX of the wrong version)' in describe_backends(DEVICE)['triton']
    x = torch.randn(1, 2, 4, 4, device=DEVICE)
    output = peripheral_conv2d(x, torch.ones(2, 1, 1, 1, device=DEVICE), SharingGrid.dense(1))  # by another backend
    torch.testing.assert_close(output, x)
    monkeypatch.setattr(backend, '_FAILURES', {})
    monkeypatch.setitem(sys.modules, 'triton', None)
    assert 'cannot be imported' in describe_backends(DEVICE)['triton']
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert 'runs only on GPUs (and for tests on CPUs' in describe_backends()['triton']


@pytest.mark.skipif(DEVICE == 'cuda', reason='Triton is interpreted only where torch sees no GPU')
def test_auto_never_selects_the_interpreter():
    x, cells = torch.empty(1, 46, 128, 128), SharingGrid.peripheral(51).cells
    assert 'triton' in available_backends()
    for backward in (False, True):
        assert choose_backend('auto', x, cells, cells, backward) not in (BACKENDS['taps'], BACKENDS['triton'])
