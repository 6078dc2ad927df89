"""The table of backends and the choice among them."""

import pytest
import torch

from mmpelk.ops import SharingGrid, available_backends, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import BACKENDS, choose_backend, fft

CELLS = SharingGrid.peripheral(51).cells
LARGE, SMALL = torch.empty(1, 46, 128, 128), torch.empty(1, 374, 7, 7)


def test_auto_selects_the_backend_with_the_least_predicted_time():
    assert choose_backend('auto', LARGE.double(), CELLS, CELLS) is BACKENDS['fft']
    assert choose_backend('auto', SMALL.double(), (1,) * 5, (1,) * 5) is BACKENDS['dense']


@pytest.mark.skipif('native' not in available_backends(), reason=describe_backends()['native'])
def test_auto_selects_native_for_large_kernels_in_float32():
    assert choose_backend('auto', LARGE, CELLS, CELLS) is BACKENDS['native']


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
