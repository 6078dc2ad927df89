"""tools/train_evidence.py: which runs it starts, and what it keeps. On digits, the training itself is replaced by a result."""

import json
import runpy
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import cv2
import pytest
from conftest import TOOLS

from mmpelk.analysis import kernel_comparison, reach_comparison
from mmpelk.datasets import make_keyed_rows
from mmpelk.engine.config import read_config

NAMES = ('form: dense 51', 'grid 2: [2, 2, 2, 2, 2, 2, 2, 2, 1]')


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """Return the commands of the trainings, which end at 90%, 91%, and so on."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        line = f'Epoch(val) accuracy/top1: 10.0\nEpoch(val) accuracy/top1: {89 + len(commands)}.0'
        return SimpleNamespace(returncode=0, stdout=line, stderr='')

    monkeypatch.setattr(subprocess, 'run', run)
    variants = {name: kernel_comparison.VARIANTS[name] for name in NAMES}
    monkeypatch.setattr(kernel_comparison, 'VARIANTS', variants)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/digits').mkdir(parents=True)
    return commands


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['train_evidence.py', *args])
    runpy.run_path(str(TOOLS / 'train_evidence.py'))['main']()


def test_runs_and_results(trainings, monkeypatch, capsys, tmp_path):
    run_main(monkeypatch, 'digits', '--epochs', '3', '--seeds', '2', '--work-dir', 'evidence')
    results = json.loads((tmp_path / 'evidence/results_3e.json').read_text())
    assert results == {f'{NAMES[0]}/0': 90.0, f'{NAMES[1]}/0': 91.0, f'{NAMES[0]}/1': 92.0, f'{NAMES[1]}/1': 93.0}
    assert '| form: dense 51 | 91.0 ± 1.4 | 81.6 |' in capsys.readouterr().out
    for command, (form, seed) in zip(trainings, (('dense', 0), ('peripheral', 0), ('dense', 1), ('peripheral', 1)), strict=True):
        assert command[1] == str(TOOLS / 'train.py') and command[-1] == '--resume'
        cfg = read_config(command[2])
        assert cfg.randomness.seed == seed and cfg.model.backbone.get('kernel_form', 'peripheral') == form


def test_finished_runs_are_not_repeated(trainings, monkeypatch, tmp_path):
    (tmp_path / 'evidence').mkdir()
    (tmp_path / 'evidence/results_3e.json').write_text(json.dumps({f'{NAMES[0]}/0': 50.0}))
    run_main(monkeypatch, 'digits', '--epochs', '3', '--seeds', '1', '--work-dir', 'evidence')
    assert len(trainings) == 1
    assert json.loads((tmp_path / 'evidence/results_3e.json').read_text()) == {f'{NAMES[0]}/0': 50.0, f'{NAMES[1]}/0': 90.0}


def test_failures(fail_tool, monkeypatch, tmp_path):
    assert 'data/digits does not exist' in fail_tool('train_evidence.py', 'digits', cwd=tmp_path)
    assert '--epochs must be at least 2' in fail_tool('train_evidence.py', 'digits', '--epochs', 1, cwd=tmp_path)
    assert '--seeds must be at least 1' in fail_tool('train_evidence.py', 'reach', '--seeds', 0, cwd=tmp_path)
    assert '--iterations must be at least 10' in fail_tool('train_evidence.py', 'reach', '--iterations', 9, cwd=tmp_path)
    assert '--sizes must be at least 64, got 32' in fail_tool('train_evidence.py', 'reach', '--sizes', 96, 32, cwd=tmp_path)
    (tmp_path / 'data/digits').mkdir(parents=True)
    failed = SimpleNamespace(returncode=1, stdout='accuracy/top1: 10.0', stderr='a traceback\nerror: the disk is full\n')
    monkeypatch.setattr(subprocess, 'run', lambda *args, **kwargs: failed)
    message = fail_tool('train_evidence.py', 'digits', cwd=tmp_path)
    assert 'form: peripheral 51, seed 0: training failed; see ' in message and message.endswith('error: the disk is full')
    assert not (tmp_path / 'work_dirs/evidence/results_10e.json').exists()


def test_reach(monkeypatch, capsys, tmp_path):
    """A small comparison from end to end. It is interrupted after the first run, and continues."""
    monkeypatch.setattr(reach_comparison, 'make_keyed_rows', partial(make_keyed_rows, num_training=8, num_validation=3))
    monkeypatch.setattr(reach_comparison, 'ABLATIONS', {'with h': reach_comparison.ABLATIONS['with h']})
    variants = ['ConvNeXt-like 7', 'peripheral 51']
    names = [*variants, 'with h']
    arguments = ['--work-dir', str(tmp_path / 'reach'), '--sizes', '64', '--iterations', '10', '--seeds', '1', '--ablations']
    arguments += ['--variants', *variants]
    train = reach_comparison.train
    with monkeypatch.context() as patch:
        patch.setattr(reach_comparison, 'train', lambda run, *args: train(run, *args) if run.variant == variants[0] else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_main(patch, 'reach', *arguments)
    path = tmp_path / 'reach/results_10i.json'
    first = json.loads(path.read_text())
    assert list(first) == ['64/ConvNeXt-like 7/0']
    memory = {f'64/{name}': 1 for name in names if name != 'peripheral 51'}
    (tmp_path / 'reach/memory.json').write_text(json.dumps(memory))
    run_main(monkeypatch, 'reach', *arguments)

    results = json.loads(path.read_text())
    assert list(results) == [f'64/{name}/0' for name in names]
    assert results['64/ConvNeXt-like 7/0'] == first['64/ConvNeXt-like 7/0']
    for result in results.values():
        assert len(result['parts']) == 8 and result['cpu_seconds'] > 0
        assert result['parts'][0] is None  # only keys
        assert min(result['parts'][4:]) <= result['right'] <= max(result['parts'][4:]) <= 100
    assert json.loads((tmp_path / 'reach/memory.json').read_text())['64/peripheral 51'] > 10
    printed = capsys.readouterr().out
    assert '| peripheral 51 | 1 |' in printed and '| with h | 1 |' in printed
    for name in ('kernel_size', 'distance', 'predictions', 'receptive_fields'):
        assert cv2.imread(str(tmp_path / f'reach/{name}.png')).std() > 5
