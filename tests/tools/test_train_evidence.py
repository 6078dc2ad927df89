"""tools/train_evidence.py: which runs it starts, and what it keeps. The training itself is replaced by a result."""

import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import TOOLS

from mmpelk.analysis import kernel_comparison
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
    run_main(monkeypatch, '--epochs', '3', '--seeds', '2', '--work-dir', 'evidence')
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
    run_main(monkeypatch, '--epochs', '3', '--seeds', '1', '--work-dir', 'evidence')
    assert len(trainings) == 1
    assert json.loads((tmp_path / 'evidence/results_3e.json').read_text()) == {f'{NAMES[0]}/0': 50.0, f'{NAMES[1]}/0': 90.0}


def test_failures(fail_tool, monkeypatch, tmp_path):
    assert 'data/digits does not exist' in fail_tool('train_evidence.py', cwd=tmp_path)
    assert '--epochs must be at least 2' in fail_tool('train_evidence.py', '--epochs', 1, cwd=tmp_path)
    (tmp_path / 'data/digits').mkdir(parents=True)
    failed = SimpleNamespace(returncode=1, stdout='accuracy/top1: 10.0', stderr='a traceback\nerror: the disk is full\n')
    monkeypatch.setattr(subprocess, 'run', lambda *args, **kwargs: failed)
    message = fail_tool('train_evidence.py', cwd=tmp_path)
    assert 'form: peripheral 51, seed 0: training failed; see ' in message and message.endswith('error: the disk is full')
    assert not (tmp_path / 'work_dirs/evidence/results_10e.json').exists()
