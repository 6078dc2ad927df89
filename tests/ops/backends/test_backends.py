"""The table of backends and the choice among them."""

import logging

import pytest
import torch
from cases import assert_same_bits

from mmpelk.ops import SharingGrid, available_backends, chosen_backends, describe_backends, peripheral_conv2d
from mmpelk.ops import backends as package
from mmpelk.ops.backends import BACKENDS, choose_backend, fft

CELLS = SharingGrid.peripheral(51).cells
LARGE, SMALL = torch.empty(1, 46, 128, 128), torch.empty(1, 374, 7, 7)


def test_auto_selects_the_backend_with_the_least_predicted_time():
    assert choose_backend('auto', LARGE.double(), CELLS, CELLS) is BACKENDS['fft']
    assert choose_backend('auto', SMALL.double(), (1,) * 5, (1,) * 5) is BACKENDS['dense']


@pytest.mark.skipif('native' not in available_backends(), reason=describe_backends()['native'])
def test_auto_selects_native_for_large_kernels_in_float32():
    assert choose_backend('auto', LARGE, CELLS, CELLS) is BACKENDS['native']


@pytest.fixture(autouse=True)
def no_earlier_choices(monkeypatch):
    monkeypatch.setattr(package, '_CHOICES', {})


def test_choices_are_recorded_and_logged_once(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, 'mmpelk')
    x, w = torch.randn(2, 3, 9, 8, dtype=torch.double), torch.randn(3, 1, 11, 11, dtype=torch.double, requires_grad=True)
    for _ in range(2):
        peripheral_conv2d(x, w, SharingGrid.peripheral(31)).sum().backward()
    peripheral_conv2d(x, w, SharingGrid.peripheral(31), backend='fft')  # not a choice
    assert [(tuple(call)[2:], name in BACKENDS) for call, name in chosen_backends().items()] == [
        (((2, 3, 9, 8), torch.contiguous_format, (17, 15), (9, 9), weight_grad), True) for weight_grad in (False, True)
    ]
    assert [record.getMessage().startswith("'auto' chose ") for record in caplog.records] == [True, True]
    monkeypatch.setattr(package, 'MAX_CHOICES', 2)
    peripheral_conv2d(x[:1], w, SharingGrid.peripheral(31))
    assert [call.shape for call in chosen_backends()] == [(1, 3, 9, 8)]


def test_auto_looks_up_earlier_choices(monkeypatch):
    """It predicts times once for each kind of call, and does not use a backend that has become unavailable."""
    x, counted, cost = torch.empty(1, 3, 9, 8), [], fft.cost
    monkeypatch.setattr(fft, 'cost', lambda *call: counted.append(call) or cost(*call))
    chosen = choose_backend('auto', x, CELLS[3:-3], CELLS[3:-3])
    for changed, backward, count in ((x, False, 1), (x, True, 2), (x.double(), False, 3), (x[..., :4], False, 4), (x, False, 4)):
        choose_backend('auto', changed, CELLS[3:-3], CELLS[3:-3], backward)
        assert len(counted) == count
    monkeypatch.setattr(chosen, 'unavailable', lambda device, dtype: 'it has gone')
    assert choose_backend('auto', x, CELLS[3:-3], CELLS[3:-3]) is not chosen


@pytest.mark.parametrize('name', available_backends())
def test_a_named_backend_is_used(name):
    assert choose_backend(name, SMALL, CELLS, CELLS) is BACKENDS[name]


def test_a_backend_that_cannot_run_is_an_error(monkeypatch):
    x, w, grid = torch.zeros(1, 2, 8, 8).double(), torch.zeros(2, 1, 11, 11).double(), SharingGrid.peripheral(31)
    monkeypatch.setattr(fft, 'unavailable', lambda device, dtype: 'no FFT in this build')
    assert available_backends(dtype=torch.float64) == ('dense',)
    with pytest.raises(ValueError, match="'fft' cannot run on cpu with torch.float64: no FFT in this build; available: .'dense'"):
        peripheral_conv2d(x, w, grid, backend='fft')
    assert describe_backends(dtype=torch.float64)['fft'] == 'unavailable: no FFT in this build'
    assert peripheral_conv2d(x, w, grid).shape == x.shape


def test_describe_backends_covers_every_backend():
    lines = describe_backends()
    assert list(lines) == list(BACKENDS)
    assert lines['dense'] == 'available'
    for name, line in lines.items():
        assert line.startswith('available' if name in available_backends() else 'unavailable: ')


@pytest.mark.parametrize('device', ['cpu', *(['cuda'] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('backend', ['auto', *BACKENDS])
def test_an_empty_batch(backend, dtype, device, interpreted):
    """The output is empty. The derivatives with respect to the weight and the bias are zeros, also under autocast."""
    if backend not in ('auto', *available_backends(device, dtype)):
        pytest.skip(describe_backends(device, dtype)[backend])
    for autocast in (False, True):
        x = torch.empty(0, 5, 6, 4, device=device, dtype=dtype, requires_grad=True)
        w, bias = (torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in ((3, 1, 5, 5), (3,)))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            output = peripheral_conv2d(x, w, SharingGrid.from_half([3, 1, 1]), bias=bias, backend=backend, partial=True)
        assert output.shape == x.shape
        assert output.dtype == (torch.bfloat16 if autocast and dtype != torch.float64 else dtype)
        first = torch.autograd.grad(output.square().sum(), (x, w, bias), create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), (x, w, bias))
        for grads in (first, second):
            for grad, tensor in zip(grads, (x, w, bias), strict=True):
                assert_same_bits([grad], [torch.zeros_like(tensor)])
