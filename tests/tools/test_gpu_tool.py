"""tools/gpu.py on a CPU with tiny sizes: every step, stopping and continuing, failures, and the pages."""

import json
import runpy
import shutil
import sys

import pytest
import torch
from conftest import ROOT, TOOLS

from mmpelk.analysis import gpu_measurements, gpu_page, gpu_session

SMALL = ('--device', 'cpu', '--small')


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A folder with the results of all steps, and the exit code of the tool."""
    out = tmp_path_factory.mktemp('gpu') / 'new'
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('TRITON_INTERPRET', raising=False)
        code = run_gpu(patch, '--out', out, *SMALL)
    return out, code


def run_gpu(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / 'gpu.py'), run_name='__main__')
    return stop.value.code


def test_all_steps_leave_results(measured):
    out, code = measured
    results = json.loads((out / 'results.json').read_text())
    errors = [item['error'] for items in results['steps'].values() for item in items.values() if 'error' in item]
    assert code == 0 and not errors, errors
    steps = gpu_measurements.plan('cpu', gpu_measurements.SMALL)
    assert {step: list(items) for step, items in steps.items()} == {step: list(items) for step, items in results['steps'].items()}
    assert list(steps) == ['checks', 'operator', 'inference', 'training', 'profile', 'sweep', 'batches']
    assert results['steps']['checks']['fft, float32, float64 reference']['largest_error'] < 1e-5
    (row,) = (row for row in results['steps']['operator'].values() if not row['backward'])
    assert row['shape'] == [1, 3, 9, 13] and row['ms']['auto']['median'] > 0
    (inference,) = results['steps']['inference'].values()
    assert set(inference['ms']) == {'PeLK-T', 'PeLK-101-T', 'ConvNeXt-T x 1.3', 'SLaK-T', 'SLaK-T, published'}
    assert [row['batch'] for row in results['steps']['batches']['float32, PeLK-T']['batches']] == [2, 4]
    assert 'checks: fft, float32' in (out / 'log.txt').read_text()
    page = (out / 'gpu.md').read_text()
    for heading in ('Targets', 'Checks', 'The operator', 'Inference', 'A training step', 'Batches that fit', 'Kernel sizes'):
        assert f'## {heading}\n' in page
    assert '| (1, 3, 9, 13) |' in page and '| PeLK-T | light head | float32 | 2 | 64 |' in page


def test_a_second_call_continues(measured, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    shutil.copytree(measured[0], out)
    results = json.loads((out / 'results.json').read_text())
    results['steps']['checks']['fft, float32, float64 reference'] = dict(error='failed before')
    del results['steps']['sweep']
    (out / 'results.json').write_text(json.dumps(results))
    assert run_gpu(monkeypatch, '--out', out, '--steps', 'checks', *SMALL) == 1
    assert '1 failed:\nchecks: fft, float32, float64 reference: failed before' in capsys.readouterr().out
    assert run_gpu(monkeypatch, '--out', out, '--steps', 'checks', '--retry', *SMALL) == 0
    assert 'sweep' not in json.loads((out / 'results.json').read_text())['steps']
    monkeypatch.setattr(gpu_session, 'machine', lambda device: dict(device='another', date='today'))
    with pytest.raises(gpu_session.InputError, match='has results of another machine'):
        gpu_session.run_session(out, 'cpu', 1, small=True)


def test_errors_and_lost_processes_leave_the_other_items(tmp_path, monkeypatch):
    """``work`` stores an error and goes on. An item that was running when its process ended becomes an error, too."""

    def fail():
        raise ValueError('two\nlines')

    items = dict(first=fail, second=lambda: dict(value=1))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=items))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    stored = gpu_session.read_results(tmp_path)['steps']['step']
    assert stored['first']['error'] == 'ValueError: two' and stored['second']['value'] == 1

    def lose(folder, *args):
        gpu_session._write(folder, gpu_session.read_results(folder) | dict(running=['step', 'third'], started=0.0))
        return -9

    items['third'] = items['first']
    monkeypatch.setattr(gpu_session, '_run_process', lose)
    assert gpu_session.run_session(tmp_path, 'cpu', 1, small=True) == []
    assert gpu_session.read_results(tmp_path)['steps']['step']['third'] == dict(error='its process ended with code -9')


def test_the_documents_are_written_between_their_marks(measured, tmp_path):
    for name in ('README.md', 'docs/benchmarks/gpu.md'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    results = gpu_session.read_results(measured[0])
    gpu_page.update_documents(results, tmp_path)
    for name in ('README.md', 'docs/benchmarks/gpu.md'):
        before, after = (ROOT / name).read_text(), (tmp_path / name).read_text()
        assert after.split(gpu_page.BEGIN)[0] == before.split(gpu_page.BEGIN)[0]
        assert after.split(gpu_page.END)[1] == before.split(gpu_page.END)[1]
        assert '| target | measured | holds |' in after.split(gpu_page.BEGIN)[1]
    assert '## The operator' in (tmp_path / 'docs/benchmarks/gpu.md').read_text()
    with pytest.raises(gpu_session.InputError, match='there are no results'):
        gpu_page.update_documents(dict(machine=None, steps={}), tmp_path)


def test_targets():
    times = {'F.conv2d': 100.0, 'auto': 5.0, 'copy': 1.0}
    row = dict(ms={name: dict(median=value) for name, value in times.items()})
    lines = gpu_page.target_lines(dict(steps=dict(operator={'float32, forward, (16, 46, 128, 51)': row})))
    assert any('at least 10 | 20.00 | yes |' in line for line in lines)
    assert any('copy' in line and 'at most 3 | 5.00 | no |' in line for line in lines)
    assert sum('| not measured |  |' in line for line in lines) == len(lines) - 4


def test_wrong_arguments(fail_tool, tmp_path, monkeypatch):
    assert 'got -1' in fail_tool('gpu.py', '--minutes', -1, cwd=tmp_path)
    assert "--steps must be among ['checks'" in fail_tool('gpu.py', '--steps', 'nothing', *SMALL, cwd=tmp_path)
    if not torch.cuda.is_available():
        assert 'sees no GPU' in fail_tool('gpu.py', cwd=tmp_path)
    (tmp_path / 'work_dirs/gpu').mkdir(parents=True)
    (tmp_path / 'work_dirs/gpu/results.json').write_text('{')
    assert 'cannot read work_dirs/gpu/results.json' in fail_tool('gpu.py', *SMALL, cwd=tmp_path)
