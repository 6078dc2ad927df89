"""Sessions that are stopped, killed, or continued. tests/tools/test_gpu_tool.py runs whole sessions."""

import os
from unittest.mock import Mock

from mmpelk.analysis import gpu_measurements, gpu_session


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


def test_compiled_kernels_are_kept_in_the_folder(tmp_path, monkeypatch):
    found = []

    def start(command, *, env, **options):
        found.append(env['TRITON_CACHE_DIR'])
        return Mock(wait=lambda seconds: 0, poll=lambda: 0)

    monkeypatch.setattr(gpu_session.subprocess, 'Popen', start)
    monkeypatch.delenv('TRITON_CACHE_DIR', raising=False)
    gpu_session._run_process(tmp_path, 'cpu', [], True, 0.0)
    monkeypatch.setenv('TRITON_CACHE_DIR', 'chosen')
    gpu_session._run_process(tmp_path, 'cpu', [], True, 0.0)
    assert found == [str(tmp_path / 'triton'), 'chosen']


def test_an_orphan_writes_nothing(tmp_path, monkeypatch):
    """After its session was killed, a process must not write over the results of the next session."""
    parents = iter((1, 2))
    monkeypatch.setattr(os, 'getppid', lambda: next(parents))
    monkeypatch.setattr(gpu_session, 'plan', lambda device, scale: dict(step=dict(item=lambda: dict(value=1))))
    gpu_session.work(str(tmp_path), 'cpu', ['step'], True, float('inf'))
    assert gpu_session.read_results(tmp_path)['steps'] == {}
