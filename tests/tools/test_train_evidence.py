"""The runs that tools/train_evidence.py starts, and the results that it keeps. On digits, training is replaced with a fixed result."""

import json
import runpy
import sys
from functools import partial

import cv2
import pytest
from conftest import TOOLS

from mmpelk.analysis import kernel_comparison, reach_comparison
from mmpelk.datasets import make_keyed_rows

NAMES = ('form: dense 51', 'grid 2: [2, 2, 2, 2, 2, 2, 2, 2, 1]')


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replace training on digits, and return the variants and seeds that are trained. Their accuracies are 90%, 91%, and so on."""
    runs = []

    def train_variant(name, seed, epochs, root):
        assert (epochs, str(root)) == (3, 'evidence')
        runs.append((name, seed))
        return 89.0 + len(runs)

    monkeypatch.setattr(kernel_comparison, 'train_variant', train_variant)
    variants = {name: kernel_comparison.VARIANTS[name] for name in NAMES}
    monkeypatch.setattr(kernel_comparison, 'VARIANTS', variants)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/digits').mkdir(parents=True)
    return runs


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['train_evidence.py', *args])
    runpy.run_path(str(TOOLS / 'train_evidence.py'))['main']()


def test_runs_and_results(trained, monkeypatch, capsys, tmp_path):
    run_main(monkeypatch, 'digits', '--epochs', '3', '--seeds', '2', '--work-dir', 'evidence')
    results = json.loads((tmp_path / 'evidence/results_3e.json').read_text())
    assert results == {f'{NAMES[0]}/0': 90.0, f'{NAMES[1]}/0': 91.0, f'{NAMES[0]}/1': 92.0, f'{NAMES[1]}/1': 93.0}
    assert '| form: dense 51 | 91.0 ± 1.4 | 81.6 |' in capsys.readouterr().out
    assert trained == [(NAMES[0], 0), (NAMES[1], 0), (NAMES[0], 1), (NAMES[1], 1)]


def test_finished_runs_are_not_repeated(trained, monkeypatch, tmp_path):
    (tmp_path / 'evidence').mkdir()
    (tmp_path / 'evidence/results_3e.json').write_text(json.dumps({f'{NAMES[0]}/0': 50.0}))
    run_main(monkeypatch, 'digits', '--epochs', '3', '--seeds', '1', '--work-dir', 'evidence')
    assert trained == [(NAMES[1], 0)]
    assert json.loads((tmp_path / 'evidence/results_3e.json').read_text()) == {f'{NAMES[0]}/0': 50.0, f'{NAMES[1]}/0': 90.0}


def test_failures(fail_tool, tmp_path):
    assert 'data/digits does not exist' in fail_tool('train_evidence.py', 'digits', cwd=tmp_path)
    assert '--epochs must be at least 2' in fail_tool('train_evidence.py', 'digits', '--epochs', 1, cwd=tmp_path)
    assert '--seeds must be at least 1' in fail_tool('train_evidence.py', 'reach', '--seeds', 0, cwd=tmp_path)
    assert '--iterations must be at least 10' in fail_tool('train_evidence.py', 'reach', '--iterations', 9, cwd=tmp_path)
    assert '--sizes must be at least 64, got 32' in fail_tool('train_evidence.py', 'reach', '--sizes', 96, 32, cwd=tmp_path)


def test_reach(monkeypatch, capsys, tmp_path):
    """Run a small comparison from end to end. It is interrupted after the first run, and then continues."""
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
        assert result['parts'][0] is None  # this part contains only keys
        assert min(result['parts'][4:]) <= result['right'] <= max(result['parts'][4:]) <= 100
    assert json.loads((tmp_path / 'reach/memory.json').read_text())['64/peripheral 51'] > 10
    printed = capsys.readouterr().out
    assert '| peripheral 51 | 1 |' in printed and '| with h | 1 |' in printed
    for name in ('kernel_size', 'distance', 'predictions', 'receptive_fields'):
        assert cv2.imread(str(tmp_path / f'reach/{name}.png')).std() > 5
