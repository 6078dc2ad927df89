"""The checks of tools/gpu.py: which cases are planned, and all of them for the Triton backends in Triton's interpreter."""

from unittest.mock import MagicMock, Mock

import pytest
import torch

from mmpelk.analysis import gpu_checks, gpu_measurements, gpu_page
from mmpelk.analysis.gpu_checks import (
    CASES,
    MAX_ERRORS,
    SMALL_CASES,
    TRITON_BACKENDS,
    CheckFailed,
    accepted_cases,
    checks,
    expected_backends,
)
from mmpelk.ops import SharingGrid, peripheral_conv2d
from mmpelk.ops.backends import BACKENDS
from mmpelk.utils.errors import InputError

triton = pytest.importorskip('triton', minversion='3', reason='there is no Triton')
pytestmark = pytest.mark.usefixtures('interpreted')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
OF_TRITON = [  # the names of the small checks of both backends
    f'{backend}, {dtype}, {what}'
    for backend in ('triton', 'taps')
    for dtype in ('float32', 'bfloat16', 'float16')
    for what in ('float64 reference', 'layouts and repeated bits')
] + [
    f'{what}, {backend}{how}'
    for backend in ('triton', 'taps', 'auto')
    for what, how in (('deterministic algorithms', ''), ('derivatives', ''), ('torch.compile', ', aot_eager'))
]


@pytest.mark.skipif(DEVICE == 'cuda', reason='make gpu runs the checks on a GPU')
@pytest.mark.parametrize('name', OF_TRITON)
def test_the_small_checks_pass_in_the_interpreter(name):
    result = checks('cpu', small=True)[name]()
    assert all(value >= 0 for value in result.values())


def test_every_planned_case_is_accepted():
    """An empty batch is refused or accepted like any other, and no kernel runs."""
    planned = {backend: [accepted_cases(backend, cases) for cases in (CASES, SMALL_CASES)] for backend in TRITON_BACKENDS}
    for backend, groups in planned.items():
        assert len(groups[0]) >= 5 and groups[1] == SMALL_CASES
        for shape, kernel_size, center in CASES:
            grid = SharingGrid.peripheral(kernel_size, center)
            x, w = torch.zeros(0, *shape[1:], device=DEVICE), torch.zeros(shape[1], 1, *[grid.weight_size] * 2, device=DEVICE)
            if (shape, kernel_size, center) in groups[0]:
                assert peripheral_conv2d(x, w, grid, backend=backend).shape == x.shape
            else:
                with pytest.raises(InputError, match='columns of cells'):
                    peripheral_conv2d(x, w, grid, backend=backend)


def test_the_cases_follow_the_limit(monkeypatch):
    monkeypatch.setattr(BACKENDS['taps'], 'MAX_CELLS', 5)
    assert accepted_cases('taps', SMALL_CASES) == SMALL_CASES  # 7 taps in 5 cells
    monkeypatch.setattr(BACKENDS['taps'], 'MAX_CELLS', 4)
    assert accepted_cases('taps', SMALL_CASES) == ()


def test_planning_runs_no_kernel_and_is_the_same_wherever_triton_cannot_run(monkeypatch):
    """The names for a GPU are planned on this machine, which may have none."""

    def fail(*args):
        raise AssertionError('a kernel was run')

    for backend in BACKENDS.values():
        monkeypatch.setattr(backend, 'unavailable', fail)
    steps = gpu_measurements.plan('cuda', gpu_measurements.Scale())
    for backend in ('triton', 'taps', 'fft', 'dense'):
        for dtype in MAX_ERRORS:
            expected = not (backend in ('triton', 'taps') and dtype == torch.float64) and not (
                backend == 'dense' and dtype.itemsize == 2
            )
            assert (f'{backend}, {str(dtype).removeprefix("torch.")}, float64 reference' in steps['checks']) == expected
    for backend in ('triton', 'taps', 'auto'):
        for what in ('CUDA graph, {}', 'derivatives, {}', 'deterministic algorithms, {}', 'torch.compile, {}, reduce-overhead'):
            assert what.format(backend) in steps['checks']
    assert list(steps)[:3] == ['compilation', 'checks', 'operator']
    assert list(steps).index('sweep') == list(steps).index('sweep_compilation') + 1
    shape = (16, 46, 128, 51)
    assert list(steps['operator'])[:8] == [
        *(f'{dtype}, {what}, {shape}' for dtype in ('bfloat16', 'float32') for what in ('forward', 'forward and backward')),
        *(
            f'{dtype}, {what}, {shape}'
            for dtype in ('bfloat16', 'float32')
            for what in ('CUDA graphs beside plain calls', 'sizes of the parts')
        ),
    ]
    assert len(steps['operator']) == 8 and len(steps['shapes']) == 3 * 2 * len(gpu_measurements.GPU_SHAPES) - 4
    assert list(steps).index('shapes') > list(steps).index('training') and list(steps)[-2:] == ['tests', 'kernels']


def test_a_backend_that_cannot_run_fails_with_the_reason(monkeypatch):
    monkeypatch.setattr(BACKENDS['taps'], 'unavailable', lambda device, dtype: 'the compiler crashed')
    planned = checks(DEVICE, small=True)
    for name in ('available backends', 'taps, float32, float64 reference', 'derivatives, taps'):
        with pytest.raises((CheckFailed, InputError), match='the compiler crashed'):
            planned[name]()
    scale = gpu_measurements.SMALL
    result = gpu_measurements.operator_times(scale.shapes[0], False, DEVICE, 'float32', scale)
    assert result['lacking'] == dict(taps='unavailable: the compiler crashed') and 'triton' in result['ms']


@pytest.mark.parametrize('factor', [1.01, float('nan')])
def test_a_wrong_result_fails(factor, monkeypatch):
    def wrong(x, w, grid, **kwargs):
        output = peripheral_conv2d(x, w, grid, **kwargs)
        return output * torch.where(torch.arange(output.shape[3]) == 1, factor, 1.0)

    monkeypatch.setattr(gpu_checks, 'peripheral_conv2d', wrong)
    with pytest.raises(CheckFailed):
        gpu_checks.check_against_float64('cpu', 'fft', torch.float32, SMALL_CASES)
    with pytest.raises(CheckFailed):
        gpu_checks.check_layouts_and_bits('cpu', 'fft', torch.float32, True)


def test_no_nan_is_missed():
    assert gpu_checks._largest([0.1, float('nan'), 0.2]) != gpu_checks._largest([0.1, 0.3, 0.2]) == 0.3
    with pytest.raises(CheckFailed, match='differ by nan'):
        gpu_checks._compare([torch.ones(1), torch.tensor([float('nan')])], [torch.ones(1)] * 2, 1, 'x')


def test_no_check_uses_tf32(monkeypatch):
    """cuDNN's tf32 is on by default, also where there is no cuDNN."""
    settings = []

    def recorded(*args, **kwargs):
        settings.append(torch.backends.cudnn.allow_tf32)
        return peripheral_conv2d(*args, **kwargs)

    monkeypatch.setattr(gpu_checks, 'peripheral_conv2d', recorded)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', True)
    planned = checks('cpu', small=True)
    for name in ('float64 reference', 'layouts and repeated bits'):
        planned[f'fft, float32, {name}']()
    planned['deterministic algorithms, auto']()
    planned['derivatives, auto']()
    assert settings and not any(settings) and torch.backends.cudnn.allow_tf32


def test_deterministic_algorithms_are_restored():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with gpu_checks.deterministic_algorithms():
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(ZeroDivisionError), gpu_checks.deterministic_algorithms():
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(DEVICE == 'cuda', reason='make gpu runs the item on a GPU')
def test_sizes_of_the_parts_are_timed_and_restored(monkeypatch):
    before, captured = [BACKENDS[name].MAX_MAPS_BYTES for name in ('triton', 'taps')], []

    def record(call, device):
        captured.append(BACKENDS['triton'].MAX_MAPS_BYTES)
        return Mock(replay=call), call()

    monkeypatch.setattr(gpu_checks, 'capture', record)
    result = gpu_measurements.part_times((1, 2, 4, 5), 'cpu', 'float32', gpu_measurements.SMALL)
    assert set(result['ms']) == {
        f'{name}, {size}' for name in ('triton', 'taps') for size in ('16 MB', '32 MB', '64 MB', 'unlimited')
    }
    assert [BACKENDS[name].MAX_MAPS_BYTES for name in ('triton', 'taps')] == before
    assert captured == 2 * list(gpu_measurements.MAX_MAPS_BYTES.values())
    with gpu_measurements.parts_of(7):
        assert BACKENDS['triton'].MAX_MAPS_BYTES == BACKENDS['taps'].MAX_MAPS_BYTES == 7


def run_again(call, device):
    """Stand for ``capture``, with a graph that runs the call again and writes into the same tensors."""
    result = call()

    def replay():
        for tensor, value in zip(result, call(), strict=True):
            tensor.data.copy_(value)

    return Mock(replay=replay), result


def test_the_steps_of_a_cuda_graph(monkeypatch):
    """Without a GPU, ``torch.cuda`` is replaced. A replay that leaves the old results must be noticed."""
    monkeypatch.setattr(gpu_checks.torch, 'cuda', MagicMock())
    calls = []
    assert gpu_checks.capture(lambda: calls.append(0) or len(calls), 'cpu')[1] == len(calls) > 1
    with pytest.raises(CheckFailed, match='those of a plain call'):
        gpu_checks.check_cuda_graph('cpu', 'fft')
    monkeypatch.setattr(gpu_checks, 'capture', run_again)
    assert gpu_checks.check_cuda_graph('cpu', 'fft')['difference'] < 1e-5


@pytest.mark.skipif(DEVICE == 'cuda', reason='make gpu runs the item on a GPU')
def test_graphs_are_timed_beside_plain_calls(monkeypatch):
    monkeypatch.setattr(gpu_checks, 'capture', lambda call, device: (Mock(replay=call), None))
    result = gpu_measurements.graph_times((1, 2, 4, 5), 'cpu', 'float32', gpu_measurements.SMALL)
    names = ('auto', 'triton', 'taps', 'copy')
    assert list(result['ms']) == [text for name in names for text in (name, f'{name}, CUDA graph')]
    (line,) = (
        line for line in gpu_page.page_lines(dict(steps=dict(operator=dict(graphs=result)))) if 'beside plain calls' in line
    )
    assert line == 'float32, forward, (1, 2, 4, 5), channels_last, CUDA graphs beside plain calls:'


def test_expected_backends_depend_on_the_device_and_type(monkeypatch):
    assert expected_backends('cuda', torch.float32) == ('triton', 'taps', 'fft', 'dense')
    assert expected_backends('cuda', torch.float64) == ('fft', 'dense')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert expected_backends('cpu', torch.float32) == ('fft', 'dense')
