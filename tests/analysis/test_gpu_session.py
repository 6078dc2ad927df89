"""Sessions that are stopped, killed, or continued. tests/tools/test_gpu_tool.py runs whole sessions."""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import tool_env

from mmpelk.analysis import gpu_measurements, gpu_session
from mmpelk.ops import depthwise_conv2d


def test_errors_and_lost_processes_leave_the_other_items(tmp_path, monkeypatch):
    """``work`` stores an error and goes on. An item that was running when its process ended becomes an error, too."""

    def fail():
        raise ValueError('two\nlines')

    items = dict(first=fail, second=lambda: dict(value=1))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=items))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    stored = gpu_session.read_results(tmp_path)['steps']['step']
    assert stored['first']['error'] == 'ValueError: two' and stored['second']['value'] == 1
    assert (tmp_path / 'gpu.md').exists()  # a run that is stopped later has its tables

    def lose(folder, *args):
        gpu_session._write(folder, gpu_session.read_results(folder) | dict(running=['step', 'third'], started=0.0))
        return -9

    items['third'] = items['first']
    monkeypatch.setattr(gpu_session, '_run_process', lose)
    assert gpu_session.run_session(tmp_path, 'cpu', 1, small=True) == []
    assert gpu_session.read_results(tmp_path)['steps']['step']['third'] == dict(error='its process ended with code -9')


def test_a_page_that_cannot_be_written_loses_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_session, 'write_page', lambda results, folder: 1 / 0)
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=dict(item=lambda: dict(value=1))))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    assert gpu_session.read_results(tmp_path)['steps']['step']['item']['value'] == 1


def test_an_item_of_a_killed_session_is_repeated_once(tmp_path, monkeypatch, capsys):
    """A process that dies on import is not the fault of the item that ran when an earlier session was killed."""
    items = dict(first=lambda: dict(value=1))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=items))
    monkeypatch.setattr(gpu_session, '_run_process', lambda *args: 1)

    def session(**options):
        assert gpu_session.run_session(tmp_path, 'cpu', 1, small=True, **options) == ([] if stored() else ['step: first'])
        return stored()

    def stored():
        return gpu_session.read_results(tmp_path)['steps'].get('step', {}).get('first')

    def kill():
        results = gpu_session.read_results(tmp_path)
        gpu_session._write(tmp_path, results | dict(running=['step', 'first'], started=0.0))

    assert session() is None and 'ended with code 1 outside of an item' in capsys.readouterr().err
    kill()
    assert session() is None
    kill()
    assert session() == dict(error='two sessions were killed while it ran')
    assert session(retry=True) is None
    kill()
    assert session() is None


def test_tests_are_repeated_once_their_modules_are_installed(tmp_path, monkeypatch):
    def found(*lacking):
        return lambda name: None if name in lacking else 'found'

    monkeypatch.setattr(gpu_measurements, 'find_spec', found('numpy', 'pytest'))
    result = gpu_measurements.run_tests(('tests/ops',))
    assert result['needs'] == ['pytest', 'numpy'] and result['summary'].startswith('not run: pytest and numpy not installed')
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(tests=dict(triton=None)))
    monkeypatch.setattr(gpu_session, '_run_process', lambda *args: 1)
    gpu_session._write(tmp_path, dict(machine=None, running=None, steps=dict(tests=dict(triton=result))))
    for lacking, missing in ((('numpy',), []), ((), ['tests: triton'])):
        monkeypatch.setattr(gpu_session, 'find_spec', found(*lacking))
        assert gpu_session.run_session(tmp_path, 'cpu', 1, small=True) == missing


def test_compiled_kernels_and_choices_are_kept_in_the_folder(tmp_path, monkeypatch):
    found = []

    def start(command, *, env, **options):
        assert env['MMPELK_AUTOTUNE_FILE'] == str(tmp_path / 'choices.json')
        found.append(env['TRITON_CACHE_DIR'])
        return Mock(wait=lambda seconds: 0, poll=lambda: 0)

    monkeypatch.setattr(gpu_session.subprocess, 'Popen', start)
    monkeypatch.delenv('TRITON_CACHE_DIR', raising=False)
    monkeypatch.delenv('MMPELK_AUTOTUNE_FILE', raising=False)
    gpu_session._run_process(tmp_path, 'cpu', [], True, 0.0)
    monkeypatch.setenv('TRITON_CACHE_DIR', 'chosen')
    gpu_session._run_process(tmp_path, 'cpu', [], True, 0.0)
    assert found == [str(tmp_path / 'triton'), 'chosen']


@pytest.mark.parametrize('step, seconds', [('operator', 180), ('tests', 420)])
def test_an_item_that_hangs_is_stopped(step, seconds, tmp_path, monkeypatch):
    """It fails, and the others go on. The deadline comes first if it is earlier."""
    results = gpu_session.read_results(tmp_path) | dict(running=[step, 'first'], started=time.monotonic() - seconds + 60)
    waiting = Mock()
    waiting.wait.side_effect = [*(subprocess.TimeoutExpired('', 1) for _ in range(3)), 0]
    gpu_session._write(tmp_path, results)
    assert gpu_session._wait(waiting, tmp_path, float('inf')) == 0  # it may still take a minute
    waiting.wait.side_effect = subprocess.TimeoutExpired('', 1)
    assert gpu_session._wait(waiting, tmp_path, time.monotonic() - 1) is None
    gpu_session._write(tmp_path, results | dict(started=time.monotonic() - seconds - 1))

    def wait(folder, *args):
        return gpu_session._wait(waiting, folder, float('inf'))

    monkeypatch.setattr(gpu_session, '_close_interrupted', lambda results: None)
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: {step: dict(first=None)})
    monkeypatch.setattr(gpu_session, '_run_process', wait)
    assert gpu_session.run_session(tmp_path, 'cpu', 1, small=True) == []
    assert gpu_session.read_results(tmp_path)['steps'][step]['first'] == dict(error=f'it was stopped after {seconds} seconds')


def test_kernels_are_compiled_again_where_the_cache_is_missing(tmp_path, monkeypatch):
    """The results of an earlier session may have been copied to another machine without it."""
    monkeypatch.delenv('TRITON_CACHE_DIR', raising=False)
    steps = dict(compilation=dict(kernels=dict(kernels=1)), checks=dict(first=dict(value=1)))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: steps)
    monkeypatch.setattr(gpu_session, '_run_process', lambda *args: 1)
    for files, missing in ((('triton/key',), []), ((), ['compilation: kernels'])):
        folder = tmp_path / f'{len(files)}'
        gpu_session._write(folder, dict(machine=None, running=None, steps=steps))
        for file in files:
            (folder / file).mkdir(parents=True)
        assert gpu_session.run_session(folder, 'cpu', 1, small=True) == missing


def test_choices_of_auto_are_stored_with_the_item(tmp_path, monkeypatch):
    def item():
        depthwise_conv2d(torch.randn(1, 3, 21, 4), torch.randn(3, 1, 5, 5))
        return {}

    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=dict(item=item)))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    (choice,) = gpu_session.read_results(tmp_path)['steps']['step']['item']['chosen']
    assert choice.endswith(' for the convolution of (1, 3, 21, 4), K = (5, 5), (5, 5) cells, float32, contiguous_format')


def test_a_process_ends_with_the_session(tmp_path):
    """Even a session that is killed leaves nothing behind that uses the GPU."""
    child = 'import time; from mmpelk.analysis.gpu_session import end_with_parent; end_with_parent(); print(1, flush=True); time.sleep(99)'
    parent = (
        'import subprocess, sys; '
        f'child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE, start_new_session=True); '
        'child.stdout.readline(); print(child.pid)'
    )
    result = subprocess.run([sys.executable, '-c', parent], env=tool_env(), capture_output=True, text=True, timeout=60)
    status = Path(f'/proc/{int(result.stdout)}/stat')
    deadline = time.monotonic() + 30
    while status.exists() and status.read_text().rpartition(')')[2].split()[0] != 'Z':
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_orphan_writes_nothing(tmp_path, monkeypatch):
    """After its session was killed, a process must not write over the results of the next session."""
    parents = iter((1, 2))
    monkeypatch.setattr(os, 'getppid', lambda: next(parents))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=dict(item=lambda: dict(value=1))))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    assert gpu_session.read_results(tmp_path)['steps'] == {}
