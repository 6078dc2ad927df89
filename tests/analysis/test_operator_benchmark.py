"""The calls that the operator's benchmark compares compute what their names say, and its pages follow from their files."""

import json

import pytest
import torch
from conftest import ROOT

from mmpelk.analysis import operator_benchmark
from mmpelk.analysis.benchmark_report import Settings
from mmpelk.analysis.operator_benchmark import benchmark_operator, operator_calls, operator_work, work_table
from mmpelk.analysis.timing import Timing
from mmpelk.ops.backends import BACKENDS
from mmpelk.ops.layout import memory_format

SHAPE = (1, 3, 9, 31)


def test_all_backends_and_layouts_compute_the_same():
    calls = operator_calls(SHAPE, False, 'cpu')
    expected = calls['auto']()
    ours = set(calls) - {'F.conv2d', '7x7, 8/3 C', '7x7, 8/3 C, channels_last', 'stripes, 8/3 C', 'copy', 'matrix product'}
    assert {'auto', 'auto, channels_last', 'fft'} <= ours
    for name in ours:
        torch.testing.assert_close(calls[name](), expected, rtol=1e-4, atol=1e-4)
    assert calls['auto, channels_last']().is_contiguous(memory_format=torch.channels_last)
    assert calls['7x7, 8/3 C']().shape == calls['stripes, 8/3 C']().shape == (1, 8, 9, 9)
    input_gradient, weight_gradient = operator_calls(SHAPE, True, 'cpu')['auto']()
    assert input_gradient.shape == (1, 3, 9, 9) and weight_gradient.shape[:2] == (3, 1)


def test_triton_is_timed_in_both_layouts(monkeypatch):
    found = {}
    monkeypatch.setattr(operator_benchmark, 'available_backends', lambda device, dtype: ('dense', 'fft', 'taps', 'triton'))
    monkeypatch.setattr(operator_benchmark, 'peripheral_conv2d', lambda x, w, grid, backend: (backend, memory_format(x)))
    calls = operator_calls(SHAPE, False, 'cpu')
    for name in set(calls) & {f'{backend}{layout}' for backend in BACKENDS for layout in ('', ', channels_last')}:
        found[name] = calls[name]()
    assert found == {
        'fft': ('fft', torch.contiguous_format),
        'taps': ('taps', torch.contiguous_format),
        'taps, channels_last': ('taps', torch.channels_last),
        'triton': ('triton', torch.contiguous_format),
        'triton, channels_last': ('triton', torch.channels_last),
    }


def test_work_by_hand():
    """On 9x9 positions, the 31x31 kernel is cropped to 17x17 taps; its grid has 9 cells there."""
    assert operator_work(SHAPE, False) == dict(values=2 * 243, dense=243 * 17**2, structured=243 * 9 * 10)
    assert operator_work(SHAPE, True) == dict(values=5 * 243, dense=3 * 243 * 17**2, structured=3 * 243 * 9 * 10)


def test_one_limit_for_a_run():
    """The fastest matrix product of the run is the peak for all shapes, also where a shape's own product was slow."""
    names = 'auto', 'auto, channels_last', 'copy', 'matrix product'
    measured = {
        (1, 3, size, 31): {name: Timing(time, time, time, 1) for name, time in zip(names, times, strict=True)}
        for size, times in ((9, (4, 2, 1e-9, 1024**3)), (10, (4, 2, 1e-9, 1024**3 / 2)), (11, (4, 2, 1e9, 1024**3)))
    }
    limits = [float(line.split('|')[6]) for line in work_table(measured, False, torch.float32)[-3:]]
    structured = [operator_work(shape, False)['structured'] for shape in measured]
    assert limits == [*(pytest.approx(work / 2, rel=0.01) for work in structured[:2]), 1e9]


@pytest.mark.parametrize('name', ['op', 'op_backward'])
def test_the_pages_show_the_limits(name):
    results = json.loads((ROOT / f'docs/benchmarks/{name}.json').read_text())['milliseconds']
    measured = {
        tuple(row['shape']): {key: Timing(**value) for key, value in row.items() if isinstance(value, dict)} for row in results
    }
    page = (ROOT / f'docs/benchmarks/{name}.md').read_text()
    assert '\n'.join(work_table(measured, name == 'op_backward', torch.float32)) in page


def test_sweep(monkeypatch):
    monkeypatch.setattr(operator_benchmark, 'SWEEP', (3, 7))
    report = benchmark_operator([SHAPE], True, True, Settings(rounds=1, budget=0.01))
    assert report.name == 'op_backward_sweep' and [result['shape'] for result in report.results] == [(1, 3, 9, 3), (1, 3, 9, 7)]
    assert all(result['auto']['median'] > 0 for result in report.results)
    times, work = ([line for line in report.lines if line.startswith(f'| (1, 3, 9, {k})')] for k in (3, 7))
    assert len(times) == len(work) == 2
    auto, conv, ratio = (float(times[0].split('|')[i]) for i in (2, times_column(report, 'F.conv2d'), -4))
    assert ratio == pytest.approx(conv / auto, rel=0.02, abs=0.01)


def times_column(report, name):
    return [cell.strip() for cell in report.lines[0].split('|')].index(name)
