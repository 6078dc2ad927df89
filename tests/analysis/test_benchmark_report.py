"""The text and the files of a benchmark."""

import json
import time

import torch

from mmpelk.analysis.benchmark_report import Report, Settings, measure

LINES = ['| model | ms |', '|---|---|', '| one | 2.5 |']


def test_report(tmp_path):
    results = dict(one=dict(median=2.5))
    report = Report('speed', 'inference', LINES, results, Settings(rounds=3, precision='bfloat16'))
    heading = 'inference, bfloat16, medians of up to 3 interleaved rounds'
    assert report.text() == '\n'.join([heading, '', *LINES])
    report.write(tmp_path / 'new/folder', 'python run.py')
    assert sorted(path.name for path in (tmp_path / 'new/folder').iterdir()) == ['speed.json', 'speed.md']
    first, _, command, _, conditions, _, *lines = (tmp_path / 'new/folder/speed.md').read_text().splitlines()
    assert first == f'# {heading}' and command == '`python run.py`' and lines == LINES
    assert f'threads {torch.get_num_threads()}, torch {torch.__version__}, python 3.' in conditions
    record = json.loads((tmp_path / 'new/folder/speed.json').read_text())
    assert record['milliseconds'] == results and record['precision'] == 'bfloat16' and record['command'] == 'python run.py'
    assert record['torch'] == torch.__version__ and record['threads'] == torch.get_num_threads()


def test_types():
    types = {name: Settings(precision=name).dtype for name in ('float32', 'float16', 'bfloat16')}
    assert types == dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


def test_calls_are_timed(capsys):
    calls = dict(short=lambda: time.sleep(0.002), long=lambda: time.sleep(0.03))
    times = measure(calls, Settings(rounds=2, budget=0.07), 'sleeping')
    assert capsys.readouterr().out == 'sleeping\n'  # dots are for terminals
    assert list(times) == ['short', 'long'] and [timing.rounds for timing in times.values()] == [2, 2]
    assert 2 <= times['short'].median < 30 <= times['long'].median
