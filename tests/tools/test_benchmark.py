"""The output of tools/benchmark.py. tests/analysis checks the measurements of models."""

import json
import re
import runpy
import sys

import cv2
import pytest
from conftest import CONFIGS, TOOLS

from mmpelk.analysis import operator_benchmark

QUICK = ('--rounds', 1, '--budget', 0.01, '--device', 'cpu')


def test_operator(run_tool, fail_tool, tmp_path):
    printed = run_tool('benchmark.py', 'op', '--shape', 1, 3, 9, 31, '--backward', *QUICK, '--out', tmp_path)
    assert '| (1, 3, 9, 31) |' in printed and 'forward and backward' in printed
    page = (tmp_path / 'op_backward.md').read_text()
    assert '`python tools/benchmark.py op --shape 1 3 9 31 --backward' in page and '| (1, 3, 9, 31) |' in page
    record = json.loads((tmp_path / 'op_backward.json').read_text())
    assert {'device', 'threads', 'torch', 'python', 'date', 'command', 'precision'} <= set(record)
    (result,) = record['milliseconds']
    assert result['shape'] == [1, 3, 9, 31] and result['auto']['rounds'] == 1
    timings = [value for value in result.values() if isinstance(value, dict)]
    assert len(timings) >= 8 and all(0 < timing['fastest'] <= timing['median'] <= timing['slowest'] for timing in timings)


def test_sweep_writes_a_plot(monkeypatch, tmp_path):
    monkeypatch.setattr(operator_benchmark, 'SWEEP', (3, 7))
    arguments = ('benchmark.py', 'op', '--sweep', '--shape', 1, 2, 5, 3, *QUICK, '--out', tmp_path)
    monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
    runpy.run_path(str(TOOLS / 'benchmark.py'))['main']()
    record = json.loads((tmp_path / 'op_sweep.json').read_text())
    assert [result['shape'][3] for result in record['milliseconds']] == [3, 7]
    assert cv2.imread(str(tmp_path / 'op_sweep.png')).std() > 1


def test_wrong_arguments(fail_tool, tmp_path):
    assert 'the last one odd, got (1, 3, 9, 30)' in fail_tool('benchmark.py', 'op', '--shape', 1, 3, 9, 30, cwd=tmp_path)
    assert '--size must be at least 32, got 16' in fail_tool('benchmark.py', 'train', '--size', 16, cwd=tmp_path)
    assert '--batch must be positive, got 0' in fail_tool('benchmark.py', 'model', '--batch', 0, cwd=tmp_path)
    assert '--batch must be at least 2, because' in fail_tool('benchmark.py', 'train', '--batch', 1, cwd=tmp_path)


def test_memory_of_configs(run_tool, fail_tool, tmp_path):
    small = [f'{CONFIGS}/demo/{name}.py' for name in ('upernet_convnext_atto_digits', 'upernet_convnext_atto_grown_digits')]
    printed = run_tool('benchmark.py', 'memory', *small, '--size', 64, '--device', 'cpu')
    memory = dict(re.findall(r'\| (.+\.py) \| (\d+) \|', printed))
    assert list(memory) == small and all(int(value) > 10 for value in memory.values())
    assert 'config none.py does not exist' in fail_tool('benchmark.py', 'memory', 'none.py', cwd=tmp_path)


def test_memory_of_a_detector(run_tool):
    pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    printed = run_tool('benchmark.py', 'memory', f'{CONFIGS}/demo/cascade_mask_rcnn_pelk_atto_digits.py', '--size', 64)
    assert int(re.search(r'\.py \| (\d+) \|', printed)[1]) > 10
